"""How much each input of a matrix matters, without text.

If inputs don't depend on each other, a product's squared error is the sum of ``error ** 2 * input ** 2`` over inputs.
Their sizes are measured on a window of random tokens: a few inputs of each matrix are large whatever the text is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer, layer_config
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD
from edge_transact.checkpoint.modeling_edge_llama import decoder_layer
from edge_transact.layerwise.model import LayerwiseModel

TOKENS = 64
"""Tokens of the window."""

FLOOR = 1e-2
"""The least importance of an input, as a share of the mean: text may use what these tokens leave dead."""

BLOCK_WEIGHTS = 1 << 19
"""Weights that are fp32 at once."""


class InputImportance:
    """The mean squares of the inputs of a model's matrices.

    A layer runs when a matrix of it is asked for first, with one block of a matrix in memory at a time.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tied = checkpoint.plan.tie_word_embeddings
        self._hidden_size = checkpoint.plan.hidden_size
        self._known: dict[str, torch.Tensor] = {}
        self._measured = _mean_squares(checkpoint)

    def __call__(self, name: str) -> torch.Tensor:
        """The importance of each input of a matrix, by the matrix's name in the checkpoint: fp32 ``[in_features]``.

        It is relative to the mean and at least `FLOOR`. Ones for an embedding that isn't `lm_head` as well, and where
        the model computes NaN, infinity or nothing.
        """
        if name == EMBEDDING and not self._tied:
            return torch.ones(self._hidden_size)
        with torch.no_grad():
            while name not in self._known:
                found, squares = next(self._measured)
                self._known[found] = relative(squares)
        return self._known[name]


def relative(squares: torch.Tensor) -> torch.Tensor:
    """Mean squares of inputs as importance: relative to their mean and at least `FLOOR`, or else ones."""
    mean = squares.mean()
    if not mean > 0 or not torch.isfinite(mean):
        return torch.ones_like(squares)
    return (squares / mean).clamp_min(FLOOR)


def _mean_squares(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """The mean square of each input, by the name of the matrix, in the order in which a model computes."""
    plan = checkpoint.plan
    ids = torch.randint(plan.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    model = LayerwiseModel(checkpoint, ids, torch.float32)
    model.device = torch.device("cpu")  # the same sums with and without a GPU
    hidden = checkpoint.rows([(EMBEDDING, token, token + 1) for token in ids[0].tolist()])[None].float()
    for index in range(len(plan.layers)):
        layer = _layer(checkpoint, index)
        hidden = model.run(layer, hidden)
        for module in layer.modules():
            if isinstance(module, _Projection):
                yield f"{module.name}.weight", module.squares
    yield EMBEDDING if plan.tie_word_embeddings else LM_HEAD, _squares(model.final_normed(hidden))


def _layer(checkpoint: Checkpoint, index: int) -> DecoderLayer:
    """A layer that reads its matrices when it computes."""
    with torch.device("meta"):
        layer = decoder_layer(layer_config(checkpoint, checkpoint.plan.layers[index], index), 0)
    prefix = f"model.layers.{index}."
    for name, module in list(layer.named_modules()):
        if isinstance(module, torch.nn.Linear):
            layer.set_submodule(name, _Projection(checkpoint, prefix + name, bias=module.bias is not None))
    state = {name: checkpoint.tensor(prefix + name) for name in layer.state_dict()}
    layer.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()}, assign=True)
    return layer.eval()


class _Projection(torch.nn.Module):
    """A linear layer that reads its weight in blocks of rows, and keeps the mean square of its inputs."""

    squares: torch.Tensor

    def __init__(self, checkpoint: Checkpoint, name: str, *, bias: bool) -> None:
        super().__init__()
        self.name, self._checkpoint, self._bias = name, checkpoint, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.squares = _squares(x)
        weight = self._checkpoint.tensor(f"{self.name}.weight")
        blocks = weight.split(max(1, BLOCK_WEIGHTS // weight.shape[1]))
        output = torch.cat([functional.linear(x, rows.float()) for rows in blocks], dim=-1)
        return output + self._checkpoint.tensor(f"{self.name}.bias").float() if self._bias else output


def _squares(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(end_dim=-2).square().mean(dim=0)
