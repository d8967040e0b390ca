"""The time of a plan on a device, predicted from a profile: times of a model's kernels by width, tokens and context.

A pass computes `tokens` new tokens, 1 in decode. Its time is that of what a model does once, of every layer's MLP and
projections by their sizes, and of the attention calls, one for each virtual KV layer. `edge-transact profile` measures
these on a device; `roofline` computes them from a device's bandwidth and arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_transact.architecture.matrices import ATTENTION_INPUTS, OUTPUT
from edge_transact.errors import UsageError
from edge_transact.quantization import Quantization
from edge_transact.reading import read_model
from edge_transact.widths import LayerWidths, WidthPlan

Module = Literal["model", "mlp", "qkv_proj", "o_proj", "rotation", "attention"]
Phase = Literal["decode", "prefill"]

NOISY = 0.05
"""A profile is noisy for a plan if its kernels of one module are known to no more than this share of a pass."""

MEASURE_AGAIN = "Measure it on this device: edge-transact profile MODEL --device ... -o PROFILE"


Size = Annotated[int, Field(ge=0, lt=1 << 31)]

Seconds = Annotated[float, Field(ge=0, lt=1e6, allow_inf_nan=False)]

LAUNCHES: dict[Module, int] = {"model": 4, "mlp": 3, "qkv_proj": 2, "o_proj": 1, "rotation": 2, "attention": 2}
"""Kernels of a module: a norm before the projections, and appending to the cache beside attention itself."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kernel(_Record):
    """The time of a module of one layer in a pass, at one width.

    Attributes:
        module: ``model`` is what a pass does once: embedding, last norm, `lm_head`. ``mlp`` and the two projections of
            attention include the norms and the sums around them. ``rotation`` rotates and pads the heads of a layer
            where the model does so, instead of the KV cache. ``attention`` is one call, of one virtual KV layer.
        width: MLP dims; rows of ``qkv_proj``; columns of ``o_proj``; KV heads of a layer (``rotation``), or of a call
            (``attention``). 0 for ``model``.
        head_dim: The KV cache's; 0 where nothing depends on it.
        tokens: New tokens of the pass.
        context: Tokens that the cache holds before; 0 where nothing depends on it.
        spread_s: Half of a 95 % interval of `seconds`.
    """

    module: Module
    phase: Phase
    width: Size
    head_dim: Size = 0
    tokens: Size = 1
    context: Size = 0
    seconds: Seconds
    spread_s: Seconds = 0.0

    @property
    def at(self) -> tuple[int, ...]:
        return self.width, self.head_dim, self.tokens, self.context


@dataclass(frozen=True, order=True)
class Part:
    """What a plan takes of one module: so many times at a width and a head dim."""

    module: Module
    width: int
    head_dim: int = 0
    count: int = 0


def parts_of(plan: WidthPlan) -> list[Part]:
    """What a pass of a plan consists of; the same parts of several layers are one."""
    counts = Counter({Part("model", 0): 1})
    for layer, calls in zip(plan.layers, plan.virtual_layers, strict=True):
        for part in parts_of_layer(plan, layer, calls):
            counts[replace(part, count=0)] += part.count
    return [replace(part, count=count) for part, count in counts.items()]


def parts_of_layer(plan: WidthPlan, layer: LayerWidths, calls: int) -> list[Part]:
    """What a pass takes of one layer, whose attention is called so often."""
    parts = [Part("mlp", layer.intermediate_size, count=1)] if layer.has_mlp else []
    if layer.has_attention:
        rows = sum(matrix.shape(plan, layer)[0] for matrix in ATTENTION_INPUTS)
        parts += [Part("qkv_proj", rows, count=1), Part("o_proj", OUTPUT.shape(plan, layer)[1], count=1)]
        parts.append(Part("attention", plan.virtual_num_key_value_heads, plan.cache_head_dim, calls))
        if plan.rotates_in_model:
            parts.append(Part("rotation", layer.num_key_value_heads, count=1))
    return parts


def shape_of(plan: WidthPlan) -> dict[str, Any]:
    """What the plans of a profile have in common: all but the widths of layers, and which layers lack RoPE."""
    shared = asdict(plan)
    for name in ("layers", "nope_layers", "window_layers"):
        del shared[name]
    return {**shared, "q_per_kv": plan.q_per_kv}


class Profile(_Record):
    """Times of a model's kernels on a device, and what they depend on.

    Attributes:
        device: What tells the device from others: its name and serial, chip, CPU features, threads.
        library: Versions and code that made the library.
        is_measured: `False` for a roofline.
        prefill_chunk: The most tokens of one prefill pass.
        contexts: At which it was measured, in tokens.
        model: `shape_of` the plans that it is for.
        widest: The widest layer of these plans.
    """

    version: Literal[1] = 1
    device: dict[str, Any]
    target: str
    quantization: str
    library: dict[str, str]
    is_measured: bool
    prefill_chunk: Annotated[int, Field(gt=0, lt=1 << 31)]
    contexts: Annotated[list[Size], Field(min_length=1)]
    model: dict[str, Any]
    widest: dict[str, Size]
    kernels: Annotated[list[Kernel], Field(min_length=1)]

    def decode_s(self, plan: WidthPlan | Sequence[Part], context: float) -> float:
        """Predicted seconds of one decoded token with `context` tokens in the cache, of a plan or of some parts."""
        return self._pass_s(plan, "decode", 1, context)

    def prefill_s(self, plan: WidthPlan | Sequence[Part], tokens: int, past: int = 0) -> float:
        """Predicted seconds of the prefill of a prompt, in chunks, with `past` tokens in the cache."""
        chunk = self.prefill_chunk
        starts = range(0, tokens, chunk)
        return sum(self._pass_s(plan, "prefill", min(chunk, tokens - start), past + start) for start in starts)

    def _pass_s(self, plan: WidthPlan | Sequence[Part], phase: Phase, tokens: int, context: float) -> float:
        parts = parts_of(plan) if isinstance(plan, WidthPlan) else plan
        return sum(part.count * self._value(part, phase, tokens, context, "seconds") for part in parts)

    def check(self, plan: WidthPlan, quantization: str, contexts: Iterable[int]) -> None:
        """Refuses what the profile can't price. Whether it is of this version and this host, `require_current` tells.

        Raises:
            UsageError: It is of a model of another shape or of another quantization, the contexts are beyond its own,
                or it is too noisy for the plan; the message names the kernels.
        """
        if quantization != self.quantization:
            raise UsageError(
                f"the profile is of {self.quantization}, and the model is to be {quantization}",
                fix=f"Give --quant {self.quantization}, or measure again with --quant {quantization}.",
            )
        shape = shape_of(plan)
        for name, value in shape.items():
            if self.model.get(name) != value:
                raise UsageError(
                    f"the profile is of a model whose {name} is {self.model.get(name)}, and this one's is {value}",
                    fix=MEASURE_AGAIN,
                )
        for name, most in self.widest.items():
            if (width := getattr(plan.widest, name)) > most:
                raise UsageError(f"the profile goes to {name} {most:,}, and the model has {width:,}", fix=MEASURE_AGAIN)
        contexts = list(contexts)
        if beyond := [context for context in contexts if context > max(self.contexts)]:
            raise UsageError(
                f"a context of {max(beyond):,} tokens is beyond the profile's {max(self.contexts):,}",
                fix=f"Measure again with --contexts {','.join(map(str, sorted({*self.contexts, *beyond})))}.",
            )
        self._require_precise(plan, contexts)

    def _require_precise(self, plan: WidthPlan, contexts: Sequence[int]) -> None:
        noisy: dict[str, float] = {}
        for context in contexts:
            total = self.decode_s(plan, context)
            for module, parts in groupby(sorted(parts_of(plan)), key=lambda part: part.module):
                spread = sum(part.count * self._value(part, "decode", 1, context, "spread_s") for part in parts)
                if spread > NOISY * total:
                    noisy[module] = max(noisy.get(module, 0.0), spread / total)
        if noisy:
            names = ", ".join(f"{module} (±{share:.0%} of a token)" for module, share in noisy.items())
            raise UsageError(
                f"the profile is noisy: {names}",
                fix="Measure again on a device that does nothing else, with more --repetitions.",
            )

    def _value(self, part: Part, phase: Phase, tokens: int, context: float, field: str) -> float:
        key = (part.module, part.width, part.head_dim, phase, tokens, context)
        if key not in self._known:
            kernels = [kernel for kernel in self.kernels if (kernel.module, kernel.phase) == (part.module, phase)]
            at = (part.width, part.head_dim, tokens, context)
            self._known[key] = [(kernels[i], weight) for i, weight in interpolation([k.at for k in kernels], at)]
        return max(0.0, sum(weight * getattr(kernel, field) for kernel, weight in self._known[key]))

    @cached_property
    def _known(self) -> dict[tuple[Any, ...], list[tuple[Kernel, float]]]:
        return {}


def interpolation(points: Sequence[tuple[int, ...]], at: tuple[float, ...]) -> list[tuple[int, float]]:
    """Indices and weights of the points that give a value between them.

    It is linear along each axis, the first axis first, and goes straight on beyond the last two points.
    """
    return _weights([(point, index) for index, point in enumerate(points)], at)


def _weights(points: Sequence[tuple[tuple[int, ...], int]], at: tuple[float, ...]) -> list[tuple[int, float]]:
    if not at:
        return [(index, 1.0) for _, index in points]
    rest: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for (first, *others), index in points:
        rest.setdefault(first, []).append((tuple(others), index))
    known = sorted(rest)
    if len(known) < 2:
        return _weights(rest[known[0]], at[1:]) if known else []
    upper = next((i for i, place in enumerate(known) if i and place >= at[0]), len(known) - 1)
    low, high = known[upper - 1], known[upper]
    share = (at[0] - low) / (high - low)
    ends = ((low, 1 - share), (high, share))
    return [(i, part * weight) for place, part in ends if part for i, weight in _weights(rest[place], at[1:])]


def read_profile(path: Path) -> Profile:
    """A profile that `edge-transact profile` wrote.

    Raises:
        UsageError: There is no such file.
        EdgeTransactError: It is damaged, or of another version.
    """
    try:
        return read_model(Profile, path, MEASURE_AGAIN, "a profile of this version")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", fix=MEASURE_AGAIN) from error


@dataclass(frozen=True)
class Rates:
    """A device as a roofline sees it."""

    bandwidth_bytes_per_s: float
    flops_per_s: float
    launch_s: float


def roofline(
    plan: WidthPlan,
    quantization: Quantization,
    rates: Rates,
    *,
    target: str,
    contexts: Sequence[int],
    prefill_chunk: int,
) -> Profile:
    """What a device of such rates takes at least: the slower of its memory and its arithmetic, for each kernel.

    Weights count once in a pass, the cache of all tokens before, and activations not at all.
    """
    scaled = quantization.bits and quantization.bits / 8 + quantization.model_dtype_bytes / quantization.group_size
    weight_bytes = scaled or quantization.model_dtype_bytes
    # Where arithmetic starts to take longer than memory, a line between other points would be too low.
    bend = round(rates.flops_per_s * weight_bytes / 2 / rates.bandwidth_bytes_per_s)
    chunks = sorted({1, min(max(bend, 1), prefill_chunk), prefill_chunk})
    passes: list[tuple[Phase, int]] = [("decode", 1), *(("prefill", chunk) for chunk in chunks)]
    kernels = []
    for phase, tokens in passes:
        for module, width, head_dim, context, weights, cached in _modules(plan, tokens, contexts):
            # The last norm and `lm_head` are for one token.
            flops = 2 * (tokens if module != "model" else 1) * weights
            nbytes = weights * weight_bytes + cached * quantization.model_dtype_bytes
            if module == "attention":
                pairs = tokens * context + tokens * (tokens + 1) // 2
                flops = 4 * pairs * width * plan.q_per_kv * head_dim
            busy_s = max(nbytes / rates.bandwidth_bytes_per_s, flops / rates.flops_per_s)
            at = {"width": width, "head_dim": head_dim, "tokens": tokens, "context": context}
            seconds = LAUNCHES[module] * rates.launch_s + busy_s
            kernels.append(Kernel(module=module, phase=phase, **at, seconds=seconds))
    return Profile(
        device={"name": "roofline", **asdict(rates)},
        target=target,
        quantization=quantization.name,
        library={},
        is_measured=False,
        prefill_chunk=prefill_chunk,
        contexts=sorted(contexts),
        model=shape_of(plan),
        widest=asdict(plan.widest),
        kernels=kernels,
    )


def _modules(plan: WidthPlan, tokens: int, contexts: Sequence[int]) -> Iterator[tuple[Module, int, int, int, int, int]]:
    """Module, width, head dim, context, weights and cached values, at both ends of lines."""
    widest, hidden = plan.widest, plan.hidden_size
    yield "model", 0, 0, 0, hidden * plan.vocab_size, 0
    for size in (0, widest.intermediate_size):
        yield "mlp", size, 0, 0, 3 * hidden * size, 0
    for heads in (0, widest.num_key_value_heads):
        columns, values = heads * plan.q_per_kv * plan.head_dim, heads * plan.head_dim
        yield "qkv_proj", columns + 2 * values, 0, 0, (columns + 2 * values) * hidden, 0
        yield "o_proj", columns, 0, 0, columns * hidden, 0
        yield "rotation", heads, 0, 0, 0, 0
        for dim, context in product((0, plan.cache_head_dim), sorted({0, *contexts})):
            yield "attention", heads, dim, context, 0, 2 * heads * dim * (context + tokens)
