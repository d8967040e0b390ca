"""Runs a model layer by layer, so that only one layer's weights are in memory at a time.

The hidden states of all calibration windows go through one layer after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch.nn import functional

from edge_transact.architecture.matrices import ATTENTION_NORM, GATE, MLP_NORM, OUTPUT, OUTPUT_NORMS, UP, Matrix
from edge_transact.cache.journal import Journal, release
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import (
    REPAIR,
    DecoderLayer,
    checked,
    final_norm,
    is_finite,
    linear,
    load_layer,
    rotation,
)
from edge_transact.checkpoint.layout import EMBEDDING, LAST_NORM, LM_HEAD, layer_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.system.computation import compute_device, is_bf16_fast
from edge_transact.widths import LayerWidths

logger = logging.getLogger(__name__)

BATCH_TOKENS = 2048
"""Tokens of a forward pass: enough for fast matrix products, few enough for the activations of a 7B model."""

LOGITS_TOKENS = 256
"""Tokens whose logits are computed at once."""

LOGITS_VOCABULARY = 4096
"""Logits of a token that are computed at once, where blocks are enough: they stay in the CPU's cache."""


def computation_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the computation: bf16 if weights are stored in it and the device multiplies it fast, else fp32.

    fp16 overflows where bf16 and fp32 don't.
    """
    return torch.bfloat16 if stored == torch.bfloat16 and is_bf16_fast(device) else torch.float32


class LayerwiseModel:
    """The parts of a model that its layers share, and its layers one at a time.

    Args:
        windows: int64 token ids, ``[windows, window]``.
        dtype: The dtype of the computation; `None` for that of `computation_dtype`.

    Attributes:
        replaced: Tensors that are used instead of the checkpoint's, by name; `replace` adds them.
        device: The device that computes layers. Hidden states are kept on the CPU.
    """

    def __init__(self, checkpoint: Checkpoint, windows: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        self.checkpoint = checkpoint
        self.windows = windows
        self.replaced: dict[str, torch.Tensor] = {}
        self.device = compute_device()
        self.dtype = dtype or computation_dtype(checkpoint.tensor(EMBEDDING).dtype, self.device)

    def sample(self, tokens: int, window: int | None = None) -> LayerwiseModel:
        """The same model with fewer windows, evenly spaced: at most this many tokens, at least one window.

        With `window`, only this many tokens at the start of each window are used.
        """
        windows = self.windows[:, :window]
        count = min(len(windows), max(1, tokens // windows.shape[1]))
        model = LayerwiseModel(self.checkpoint, windows[torch.arange(count) * len(windows) // count], self.dtype)
        model.replaced = self.replaced
        return model

    @property
    def batch_windows(self) -> int:
        """Windows of a batch, which has about `BATCH_TOKENS` tokens."""
        return max(1, BATCH_TOKENS // self.windows.shape[1])

    @property
    def batches(self) -> Sequence[torch.Tensor]:
        return self.windows.split(self.batch_windows)

    def embeddings(self, journal: Journal) -> torch.Tensor:
        """The input of layer 0, which is checked, ``[windows, window, hidden_size]``, in storage of the journal."""
        rows = self.checkpoint.tensor(EMBEDDING)
        hidden = journal.room((*self.windows.shape, rows.shape[1]), self.dtype)
        for ids, batch in zip(self.batches, pieces(hidden, self), strict=True):
            batch.copy_(self.scaled(rows[ids]))
            checked(batch, f"{self.checkpoint.path}: {EMBEDDING}")
        return hidden

    def scaled(self, rows: torch.Tensor) -> torch.Tensor:
        """Hidden states of rows of the embedding."""
        multiplier = self.checkpoint.plan.embedding_multiplier
        return rows if multiplier == 1 else rows.to(self.dtype) * multiplier

    @cached_property
    def rotary(self) -> tuple[torch.Tensor, ...]:
        positions = torch.arange(self.windows.shape[1], device=self.device)[None]
        return rotation(self.checkpoint, positions, torch.empty(0, dtype=self.dtype, device=self.device))

    def layer(self, index: int) -> DecoderLayer:
        plan = self.checkpoint.plan
        # Copies: the weights stay in memory while many batches need them.
        tensors = {
            part: self.checkpoint.tensor(f"model.layers.{index}.{part}").clone()
            for part in layer_shapes(plan, plan.layers[index])
        }
        return self.load(index, plan.layers[index], tensors)

    def load(self, index: int, widths: LayerWidths, tensors: Mapping[str, torch.Tensor]) -> DecoderLayer:
        """A layer on `device`, without gradients for its weights.

        Args:
            tensors: Its tensors by their names in a layer.

        Raises:
            EdgeTransactError: One of the tensors, which the message names, holds NaN or infinity.
        """
        for part, tensor in tensors.items():
            checked(tensor, f"{self.checkpoint.path}: model.layers.{index}.{part}")
        layer = load_layer(self.checkpoint, widths, index, tensors, self.dtype)
        return layer.requires_grad_(False).to(self.device)

    def replace(self, name: str, tensor: torch.Tensor) -> None:
        """Replaces a tensor of the checkpoint by a computed one, in the checkpoint's dtype.

        Values outside the range of that dtype, such as 65504 for fp16, are clamped with a warning.

        Raises:
            EdgeTransactError: The tensor holds NaN or infinity.
        """
        if not is_finite(tensor):
            raise EdgeTransactError(f"{self.checkpoint.path}: what would become {name} is not finite", fix=REPAIR)
        dtype = self.checkpoint.tensor(name).dtype
        limit = torch.finfo(dtype).max
        if beyond := int((tensor.abs() > limit).sum()):
            logger.warning(
                f"{name}: {beyond} of {tensor.numel()} values are beyond {dtype}'s {limit:.6g} and were clamped."
            )
        self.replaced[name] = tensor.clamp(-limit, limit).to(dtype)

    def run(self, layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """The output of a layer for hidden states ``[batch, window, hidden_size]``, on `device`."""
        return layer(hidden.to(self.device), attention_mask=None, position_embeddings=self.rotary)

    def attend(self, layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """The input of attention's output projection for hidden states ``[batch, window, hidden_size]``."""
        inputs = []

        def keep(_module: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            inputs.append(args[0])
            return (args[0][:0],)

        handle = linear(layer, OUTPUT).register_forward_pre_hook(keep)
        normed = layer.get_submodule(ATTENTION_NORM)(hidden.to(self.device))
        layer.self_attn(normed, position_embeddings=self.rotary, attention_mask=None)
        handle.remove()
        return inputs[0]

    def activate(self, layer: DecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """The input of the MLP's down projection for hidden states ``[batch, window, hidden_size]``, on `device`."""
        normed = layer.get_submodule(MLP_NORM)(hidden.to(self.device))
        return layer.mlp.act_fn(linear(layer, GATE)(normed)) * linear(layer, UP)(normed)

    def final_normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input of `lm_head` for the last layer's output, on `device`."""
        return self._final_norm(hidden.to(self.device))

    @cached_property
    def _final_norm(self) -> torch.nn.Module:
        return final_norm(self.checkpoint, self._finite(LAST_NORM).to(self.dtype)).to(self.device)

    @cached_property
    def lm_head(self) -> torch.Tensor:
        """Its weight, ``[vocab_size, hidden_size]``, on `device`."""
        name = EMBEDDING if self.checkpoint.plan.tie_word_embeddings else LM_HEAD
        return self._finite(name).to(self.dtype).to(self.device)

    def _finite(self, name: str) -> torch.Tensor:
        return checked(self.checkpoint.tensor(name), f"{self.checkpoint.path}: {name}")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in fp32 of the last layer's output ``[tokens, hidden_size]``."""
        return functional.linear(self._final_norm(hidden.to(self.device)), self.lm_head).float()

    def logit_blocks(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """`logits` in blocks of the vocabulary: fp32 ``[tokens, LOGITS_VOCABULARY or fewer]`` each."""
        normed = self._final_norm(hidden.to(self.device))
        for rows in self.lm_head.split(LOGITS_VOCABULARY):
            yield functional.linear(normed, rows).float()

    def loss_gradients(
        self, hidden: Sequence[torch.Tensor], advance: Callable[[int], None] = lambda tokens: None
    ) -> list[torch.Tensor]:
        """The gradients of the summed next-token loss of all windows, in nats, with respect to the last layer's output.

        `hidden` is the last layer's output, batch by batch; gradients have its shapes and dtype. `advance` moves a
        progress bar by a number of tokens. An `EdgeTransactError` if the last norm or `lm_head` isn't finite.
        """
        gradients = []
        for ids, states in zip(self.batches, hidden, strict=True):
            gradient = torch.zeros_like(states)
            # Each token predicts the next one in its window; the last token predicts nothing.
            inputs, outputs = states[:, :-1].flatten(end_dim=1), gradient[:, :-1]
            pieces = []
            for piece, labels in zip(
                inputs.split(LOGITS_TOKENS), ids[:, 1:].flatten().split(LOGITS_TOKENS), strict=True
            ):
                with torch.enable_grad():
                    leaf = piece.to(self.device).requires_grad_()
                    normed = self._final_norm(leaf)
                by_normed = self._by_normed(normed.detach(), labels.to(self.device))
                (by_leaf,) = torch.autograd.grad(normed, leaf, by_normed)
                pieces.append(by_leaf.cpu())
                advance(len(piece))
            outputs.copy_(torch.cat(pieces).view_as(outputs))
            gradients.append(gradient)
        return gradients

    @torch.no_grad()
    def _by_normed(self, normed: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The gradient with respect to `lm_head`'s input: the softmax's mean of its rows, minus the label's row."""
        blocks = self.lm_head.split(LOGITS_VOCABULARY)
        logits = [functional.linear(normed, rows) for rows in blocks]
        total = torch.stack([block.float().logsumexp(dim=-1) for block in logits]).logsumexp(dim=0)
        gradient = torch.zeros_like(normed, dtype=torch.float32)
        for block, rows in zip(logits, blocks, strict=True):
            gradient += block.float().sub_(total[:, None]).exp_().to(self.dtype) @ rows
        return (gradient - self.lm_head[labels]).to(self.dtype)


def output_norm(layer: DecoderLayer, matrix: Matrix) -> torch.nn.Module | None:
    """The norm, of `OUTPUT_NORMS`, between a projection and the hidden state; `None` if there is none."""
    norm: torch.nn.Module | None = getattr(layer, OUTPUT_NORMS[matrix.name], None)
    return norm


def added(layer: DecoderLayer, matrix: Matrix, output: torch.Tensor) -> torch.Tensor:
    """What a layer adds to the hidden state for the output of a projection: the same, or its norm."""
    norm = output_norm(layer, matrix)
    return output if norm is None else norm(output)


def output_size(layer: DecoderLayer, matrix: Matrix, output: torch.Tensor) -> torch.Tensor:
    """By what the norm of a projection's output divides each token, its root mean square, fp32 ``[..., 1]``.

    It is 1 without such a norm.
    """
    if output_norm(layer, matrix) is None:
        return torch.ones((), device=output.device)
    return output.float().square().mean(dim=-1, keepdim=True).clamp_min(1e-12).sqrt()


def check_finite(tensors: Mapping[str, torch.Tensor], checkpoint: Checkpoint, index: int) -> None:
    """Raises `EdgeTransactError`, naming layer and tensor, if a computed tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise EdgeTransactError(
                f"{checkpoint.path}: layer {index} computes NaN or infinity on the calibration text ({name})",
                fix=REPAIR,
            )


def pieces(hidden: torch.Tensor, model: LayerwiseModel) -> Iterator[torch.Tensor]:
    """Hidden states of windows, batch by batch, as writable views; each is released when the next is asked for."""
    for piece in hidden.split(model.batch_windows):
        yield piece
        release(hidden)


def through(
    model: LayerwiseModel,
    layer: DecoderLayer,
    hidden: torch.Tensor,
    advance: Callable[[int], None] = lambda windows: None,
) -> None:
    """Replaces hidden states ``[windows, window, hidden_size]`` by a layer's output for them.

    They may be those of several times the model's windows. `advance` moves a progress bar by a number of windows.
    """
    for batch in pieces(hidden, model):
        batch.copy_(model.run(layer, batch))
        advance(len(batch))


def divergences(
    model: LayerwiseModel,
    whole: torch.Tensor,
    variants: Sequence[tuple[LayerwiseModel, torch.Tensor]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> torch.Tensor:
    """The mean Kullback-Leibler divergence of each variant's predictions from the model's.

    Args:
        whole: The output of its last layer, ``[windows, window, hidden_size]``.
        variants: The model whose last norm and `lm_head` a variant has, and the output of the variant's last layer.
        advance: Moves a progress bar by a number of tokens, those of every variant.

    Returns:
        Nats a token, fp64 ``[variants]``.
    """
    divergence = torch.zeros(len(variants), dtype=torch.float64)
    tokens = whole.flatten(end_dim=1)
    for start in range(0, len(tokens), LOGITS_TOKENS):
        rows = slice(start, start + LOGITS_TOKENS)
        log_probabilities = model.logits(tokens[rows]).log_softmax(dim=-1)
        negative_entropy = torch.zeros(len(log_probabilities), device=model.device)
        probabilities = []
        for block in log_probabilities.split(LOGITS_VOCABULARY, dim=-1):
            probabilities.append(block.exp())
            negative_entropy += (probabilities[-1] * block).sum(dim=-1)
        for index, (variant, hidden) in enumerate(variants):
            # For each block of logits: the log of its sum of exponentials, and its part of the mean logit.
            sums, mean = [], torch.zeros_like(negative_entropy)
            for logits, expected in zip(
                variant.logit_blocks(hidden.flatten(end_dim=1)[rows]), probabilities, strict=True
            ):
                sums.append(logits.logsumexp(dim=-1))
                mean += logits.mul_(expected).sum(dim=-1)
            divergence[index] += (negative_entropy - mean + torch.stack(sums).logsumexp(dim=0)).double().sum().item()
            advance(len(mean))
    return divergence / len(tokens)
