"""Does the library compute the model? It is run against torch, on the weights that the shards hold.

The reference is the transformers model in fp32 with every weight read back from the shards and dequantized. So the
check covers the definition, the compiler and the layout of the weights, but not the quantization's own error. A prompt
goes through prefill, in more than one chunk if the context allows; then both decode torch's greedy tokens.

Some models are ill-conditioned in fp16, for example after hard pruning: torch in fp16 is as far from fp32 as the
library is. A library that fails is therefore compared with torch in fp16 too, to tell such models from bugs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    from edge_transact.runtime.host import HostModel

logger = logging.getLogger(__name__)

LOGIT_TOLERANCE = {"float32": 1e-3, "float16": 2e-2}
"""The largest difference of a logit, relative to the largest |logit|, by the model's dtype."""

TOKEN_AGREEMENT = {"float32": 1.0, "float16": 0.9}
"""The share of greedy tokens that must be torch's own."""

FP16_FACTOR = 2.0
"""A library may be this much further from fp32 than torch in fp16: both round, but not in the same places."""

DECODE_STEPS = 16

PROMPT = (
    "The lighthouse keeper climbed the stairs every evening, counted the ships on the horizon, and wrote their names "
    "into a book that nobody had ever asked to read. In 1912 there were 3,504 of them. "
)


@dataclass(frozen=True)
class Difference:
    """Largest differences of logits from torch's, relative to its largest |logit|, and the share of equal tokens."""

    prefill_error: float
    decode_error: float
    token_agreement: float

    @property
    def error(self) -> float:
        """The larger error; NaN if either is."""
        return float(np.max([self.prefill_error, self.decode_error]))


@dataclass(frozen=True)
class Parity(Difference):
    """How far the library is from torch; of an fp16 library beyond the tolerance, also how far torch in fp16 is."""

    prompt_tokens: int
    decode_tokens: int
    tolerance: float
    required_agreement: float
    layers: int
    library: str
    prompt_ids: tuple[int, ...]
    greedy_ids: tuple[int, ...]
    torch_fp16: Difference | None = None

    @property
    def close(self) -> bool:
        """Whether the library is within the tolerance. A NaN anywhere fails."""
        return self.error <= self.tolerance and self.token_agreement >= self.required_agreement

    @property
    def ill_conditioned(self) -> bool:
        """Whether the library exceeds the tolerance only as far as torch in fp16 does."""
        fp16 = self.torch_fp16
        if fp16 is None or not np.isfinite(fp16.error):
            return False
        disagreement = max(FP16_FACTOR * (1 - fp16.token_agreement), 1 - self.required_agreement)
        return self.error <= FP16_FACTOR * fp16.error and 1 - self.token_agreement <= disagreement

    @property
    def passed(self) -> bool:
        """Whether the library computes the model as exactly as its dtype allows."""
        return self.close or self.ill_conditioned

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def require(self) -> None:
        """Raise an `EdgeTransactError` if the library did not pass; warn of a model that is ill-conditioned in fp16."""
        if self.close:
            return
        fp32 = "Build with --quant q4f32_1, or q0f32 for unquantized weights, which compute in fp32."
        if self.ill_conditioned:
            assert self.torch_fp16 is not None
            logger.warning(
                f"the model is ill-conditioned in fp16: the library's logits differ from fp32 by {self.error:.1e} of "
                f"the largest, and so do those of torch in fp16, by {self.torch_fp16.error:.1e}. {fp32}"
            )
            return
        message = (
            f"the library differs from torch: logits by {self.prefill_error:.1e} in prefill and "
            f"{self.decode_error:.1e} in decode of the largest (allowed {self.tolerance:.0e}), "
            f"{self.token_agreement:.0%} of the greedy tokens agree (required {self.required_agreement:.0%})"
        )
        fix = "Nothing was written. This is a bug in the build: report it with the model's config.json."
        if self.torch_fp16 is not None and not np.isfinite(self.torch_fp16.error):
            message += "; torch in fp16 overflows on this model too"
            fix = f"Nothing was written. {fp32}"
        elif self.torch_fp16 is not None:
            message += f"; torch in fp16 differs by {self.torch_fp16.error:.1e}"
        raise EdgeTransactError(message, fix=fix)


def reference_model(
    reader: ShardReader,
    sources: ParameterSources,
    config: Mapping[str, Any],
    plan: WidthPlan,
    quantization: Quantization,
) -> PreTrainedModel:
    """The transformers model of `plan` in fp32, with the weights that the shards hold."""
    from transformers.initialization import no_init_weights

    from edge_transact.checkpoint.layout import tensor_shapes
    from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM

    with no_init_weights():
        model = EdgeLlamaForCausalLM(model_config(config, plan))
    model.tie_weights()  # part of the initialization that is skipped
    shapes = tensor_shapes(plan)
    missing = set(shapes)
    with torch.no_grad():
        for name, tensor in restore(reader, sources, shapes, quantization):
            model.get_parameter_or_buffer(name).copy_(tensor)
            missing.remove(name)
    assert not missing, f"not in the shards: {sorted(missing)}"
    return model.eval()


def prompt_ids(tokenizer_directory: Path, length: int) -> list[int]:
    from edge_transact.runtime.text import TextCodec

    ids = TextCodec(tokenizer_directory).encode(PROMPT)
    return (ids * (length // len(ids) + 1))[:length]


def compare(
    library: HostModel,
    model: PreTrainedModel,
    prompt: Sequence[int],
    quantization: Quantization,
    *,
    decode_steps: int = DECODE_STEPS,
    name: str,
) -> Parity:
    """Run both on the same tokens, `decode_steps` of them one by one behind the prompt."""
    ids = list(prompt)
    reference = _torch_logits(model, ids, decode_steps)
    greedy = [int(logits.argmax()) for logits in reference]
    library.reset()
    ours = [library.prefill(ids).copy(), *(library.decode(token).copy() for token in greedy[:-1])]
    parity = Parity(
        **asdict(_difference(ours, reference)),
        prompt_tokens=len(ids),
        decode_tokens=decode_steps,
        tolerance=LOGIT_TOLERANCE[quantization.model_dtype],
        required_agreement=TOKEN_AGREEMENT[quantization.model_dtype],
        layers=model.config.num_hidden_layers,
        library=name,
        prompt_ids=tuple(ids),
        greedy_ids=tuple(greedy),
    )
    if parity.close or quantization.model_dtype != "float16":
        return parity
    logger.info("compare with torch in fp16")
    fp16 = _torch_logits(model, ids, decode_steps, dtype=torch.float16, greedy=greedy)
    return replace(parity, torch_fp16=_difference(fp16, reference))


def _torch_logits(
    model: PreTrainedModel,
    prompt: list[int],
    decode_steps: int,
    *,
    dtype: torch.dtype | None = None,
    greedy: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """Logits ``[vocab_size]`` after the prompt and after each decoded token, in fp32."""
    from transformers import DynamicCache

    # Buffers, such as those of RoPE, stay in fp32, as in a model that is loaded in this dtype.
    parameters = {name: parameter.to(dtype) for name, parameter in model.named_parameters()} if dtype else {}
    cache = DynamicCache(config=model.config)

    def forward(ids: list[int]) -> np.ndarray:
        # The cache is a positional argument: its keyword changed between versions of transformers.
        arguments = (torch.tensor([ids]), None, None, cache)
        output = torch.func.functional_call(model, parameters, arguments, {"logits_to_keep": 1})
        return output.logits[0, -1].float().numpy()

    with torch.inference_mode():
        logits = [forward(prompt)]
        for step in range(decode_steps):
            logits.append(forward([greedy[step] if greedy else int(logits[-1].argmax())]))
    return logits


def _difference(ours: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Difference:
    """How far logits after prefill and after each decoded token are from the reference's."""
    pairs = list(zip(ours, reference, strict=True))
    # Two digits: further ones depend on torch's number of threads.
    errors = [float(f"{np.abs(a - b).max() / np.abs(b).max():.1e}") for a, b in pairs]
    # Unlike max(), np.max() returns NaN if any error is.
    decode_error = float(np.max(errors[1:])) if len(errors) > 1 else 0.0
    agreed = [int(a.argmax()) == int(b.argmax()) for a, b in pairs]
    return Difference(errors[0], decode_error, sum(agreed) / len(agreed))
