"""Does the library compute the model? It is run against torch, on the weights that the shards hold.

The reference is the transformers model in fp32 with every weight read back from the shards and dequantized, so that
what is compared is the definition, the compiler and the layout of the weights, and not the quantization's own error.
A prompt goes through prefill, more than one chunk of it where the context allows; then both decode the same tokens,
those that torch finds likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from edge_transact.checkpoint.writer import model_config
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import Quantization
from edge_transact.weights.convert import ParameterSources, restore
from edge_transact.weights.shards import ShardReader
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_TOLERANCE = {"float32": 1e-3, "float16": 2e-2}
"""The largest difference of a logit, as a share of the largest |logit|, by the model's dtype."""

TOKEN_AGREEMENT = {"float32": 1.0, "float16": 0.9}
"""The share of greedy tokens that must be torch's own."""

DECODE_STEPS = 16

PROMPT = (
    "The lighthouse keeper climbed the stairs every evening, counted the ships on the horizon, and wrote their names "
    "into a book that nobody had ever asked to read. In 1912 there were 3,504 of them. "
)


class HostLibrary(Protocol):
    """The part of `runtime.HostModel` that is compared."""

    def reset(self) -> None:
        """Forget all tokens."""

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Logits ``[vocab_size]`` after the last of `ids`."""

    def decode(self, token_id: int) -> np.ndarray:
        """Logits ``[vocab_size]`` after one more token."""


@dataclass(frozen=True)
class Parity:
    """How far the library is from torch.

    Attributes:
        prompt_tokens: Tokens that were prefilled.
        decode_tokens: Tokens that were decoded one by one.
        prefill_error: Largest difference of a logit after prefill, as a share of torch's largest |logit| there.
        decode_error: The same over all decoded tokens.
        tolerance: What both may be.
        token_agreement: The share of greedy tokens that were torch's.
        required_agreement: What it must be.
        layers: Layers that were compared: all, or those of a cut.
        library: Which library was run.
        prompt_ids: The tokens that were prefilled.
        greedy_ids: What torch finds likeliest after them, one by one: what a device must say too.
    """

    prompt_tokens: int
    decode_tokens: int
    prefill_error: float
    decode_error: float
    tolerance: float
    token_agreement: float
    required_agreement: float
    layers: int
    library: str
    prompt_ids: tuple[int, ...]
    greedy_ids: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether the library is close enough. A NaN anywhere fails."""
        close = self.prefill_error <= self.tolerance and self.decode_error <= self.tolerance
        return close and self.token_agreement >= self.required_agreement

    def to_dict(self) -> dict[str, Any]:
        """For ``manifest.json`` and ``build --json``."""
        return {**asdict(self), "passed": self.passed}

    def require(self) -> None:
        """Raises an `EdgeTransactError` with the figures unless `passed`."""
        if not self.passed:
            raise EdgeTransactError(
                f"the library differs from torch: logits by {self.prefill_error:.1e} in prefill and "
                f"{self.decode_error:.1e} in decode of the largest (allowed {self.tolerance:.0e}), "
                f"{self.token_agreement:.0%} of the greedy tokens agree (required {self.required_agreement:.0%})",
                fix="Nothing was written. This is a bug in the build: report it with the model's config.json.",
            )


def reference_model(
    reader: ShardReader,
    sources: ParameterSources,
    config: Mapping[str, Any],
    plan: WidthPlan,
    quantization: Quantization,
) -> PreTrainedModel:
    """The transformers model of `plan` in fp32, with the weights that the shards hold.

    Args:
        reader: The shards.
        sources: The definition's parameters.
        config: The checkpoint's ``config.json``.
        plan: Its widths, or those of its first layers.
        quantization: That of the shards.
    """
    from transformers.initialization import no_init_weights

    from edge_transact.checkpoint.layout import tensor_shapes
    from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM

    with no_init_weights():
        model = EdgeLlamaForCausalLM(model_config(config, plan))
    model.tie_weights()  # which is part of the initialization that is left out
    shapes = tensor_shapes(plan)
    missing = set(shapes)
    with torch.no_grad():
        for name, tensor in restore(reader, sources, shapes, quantization):
            model.get_parameter_or_buffer(name).copy_(tensor)
            missing.remove(name)
    assert not missing, f"not in the shards: {sorted(missing)}"
    return model.eval()


def prompt_ids(tokenizer_directory: Path, length: int) -> list[int]:
    """`PROMPT` as token ids, repeated to `length`."""
    from edge_transact.runtime.text import TextCodec

    ids = TextCodec(tokenizer_directory).encode(PROMPT)
    return (ids * (length // len(ids) + 1))[:length]


def compare(
    library: HostLibrary,
    model: PreTrainedModel,
    prompt: Sequence[int],
    quantization: Quantization,
    *,
    decode_steps: int = DECODE_STEPS,
    name: str,
) -> Parity:
    """Run both on the same tokens.

    Args:
        library: The loaded host library.
        model: From `reference_model`.
        prompt: Token ids, at least one.
        quantization: Says how close they have to be.
        decode_steps: Tokens to decode one by one; context for ``len(prompt) + decode_steps`` is needed.
        name: What `library` is, for the record.
    """
    from transformers import DynamicCache

    ids = list(prompt)
    errors, agreed, greedy = [], [], []
    library.reset()
    ours = library.prefill(ids)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        # The cache goes by position: its keyword changed between versions of transformers.
        output = model(torch.tensor([ids]), None, None, cache, logits_to_keep=1)
        for step in range(decode_steps + 1):
            theirs = output.logits[0, -1].numpy()
            scale = np.abs(theirs).max()
            errors.append(float(np.abs(ours - theirs).max() / scale))
            token = int(theirs.argmax())
            agreed.append(token == int(ours.argmax()))
            greedy.append(token)
            if step < decode_steps:
                ours = library.decode(token)
                output = model(torch.tensor([[token]]), None, None, cache)
    return Parity(
        prompt_tokens=len(ids),
        decode_tokens=decode_steps,
        prefill_error=errors[0],
        # max() would pass over a NaN that isn't first.
        decode_error=float(np.max(errors[1:])) if decode_steps else 0.0,
        tolerance=LOGIT_TOLERANCE[quantization.model_dtype],
        token_agreement=sum(agreed) / len(agreed),
        required_agreement=TOKEN_AGREEMENT[quantization.model_dtype],
        layers=model.config.num_hidden_layers,
        library=name,
        prompt_ids=tuple(ids),
        greedy_ids=tuple(greedy),
    )
