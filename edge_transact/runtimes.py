"""Which widths each runtime can load: MLC-LLM, llama.cpp, vLLM and mlx-lm, as implemented by their loaders.

vLLM and mlx-lm read layers of different widths as ``nemotron-nas`` only (``nemotron_nas.py``, ``nemotron-nas.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_transact.widths import WidthPlan

GEMMA3_PATTERN, GEMMA3_LOCAL_THETA = 6, 10000.0
"""Of llama.cpp's ``gemma3``: the last of so many layers has no window, and the base of RoPE in the others."""

K_QUANT_BLOCK = 256
"""Weights of a block of llama.cpp's K-quants, along the inputs."""

NEMOTRON_NAS_MULTIPLE = 256
"""The readers of ``nemotron-nas`` round an MLP's size up to a multiple of it."""


@dataclass(frozen=True)
class Runtime:
    """What a runtime, by its name in ``--for``, demands of widths.

    `units` are names of `pruning.units.UNITS` that pruning may cut for it, all if empty. MLP widths must be multiples
    of `bucket`, for a `reason`, and `misfit` says why a plan doesn't fit; `None` if it does.
    """

    name: str
    units: tuple[str, ...]
    bucket: int
    reason: str
    misfit: Callable[[WidthPlan], str | None]


def gguf_architecture(plan: WidthPlan) -> tuple[str, str | None]:
    """llama.cpp's architecture that computes a plan, and why its loader can't; `None` if it can (``src/models``).

    ``llama`` and, where widths differ, ``deci`` have optional biases and LongRoPE, so that they compute a pruned Qwen2
    or Phi-3.5, too. The others refuse files with tensors that they don't know.
    """
    dims = {"qk_head_dim": plan.head_dim, "v_head_dim": plan.head_dim}  # those that were cut are filled up
    widths = {replace(layer, **dims) for layer in plan.layers}
    is_square = {layer.num_attention_heads * plan.head_dim for layer in plan.layers} == {plan.hidden_size}
    has_more_biases = plan.attention_out_bias or plan.mlp_bias
    if plan.use_output_norms:
        name = "gemma3"
        sixth = tuple(index for index in range(plan.num_hidden_layers) if (index + 1) % GEMMA3_PATTERN)
        has_scale = plan.query_pre_attn_scalar == plan.head_dim
        if not has_scale or plan.window_layers != sixth or plan.local_rope_theta != GEMMA3_LOCAL_THETA:
            return name, "it has Gemma 3's softmax scale, local RoPE, and windows in five of six layers"
    elif plan.window_layers:
        return "llama", "it has no sliding windows"
    elif plan.rotary_dim != plan.head_dim:
        name = "phi3"
    elif plan.nope_layers:
        name = "smollm3"
    elif plan.use_qk_norm:
        name = "qwen3"
    elif len(widths) > 1:
        return "deci", None
    elif is_square and not has_more_biases and plan.attention_bias and plan.rope_type in ("default", "yarn"):
        return "qwen2", None
    else:
        is_phi3 = is_square and not has_more_biases and not plan.attention_bias and plan.rope_type == "longrope"
        return "phi3" if is_phi3 else "llama", None
    if has_more_biases or (plan.attention_bias and name == "phi3"):
        return name, "it has none of this model's biases"
    if plan.rope_type not in ("default", "yarn", *(["longrope"] if name == "phi3" else [])):
        return name, f"it doesn't scale RoPE as {plan.rope_type} does"
    if (plan.use_qk_norm and name not in ("qwen3", "gemma3")) or (plan.nope_layers and name != "smollm3"):
        return name, "it has no norms of heads, or no layers without RoPE"
    if len(widths) > 1:
        return name, f"layers differ, and {name} has one width for all: prune with --allocation uniform"
    if name == "phi3" and not is_square:
        return name, f"its heads don't have {plan.hidden_size} dims together, the hidden size: prune with --units mlp"
    if name == "smollm3" and plan.nope_layers != tuple(range(3, plan.num_hidden_layers, 4)):
        return name, "it leaves RoPE out of every fourth layer, and this model of others"
    return name, None


def _llama_cpp(plan: WidthPlan) -> str | None:
    if misfit := gguf_architecture(plan)[1]:
        return misfit
    if _lost_dims(plan):
        return "heads that lost dims are filled up with zeros"
    ragged = _ragged(plan, K_QUANT_BLOCK)
    return f"{ragged}, as K-quants want" if ragged else None


def vllm(plan: WidthPlan) -> str | None:
    """Why vLLM can't load a plan under its family's own name or as ``nemotron-nas``; `None` if it can."""
    return None if plan.is_stock else nemotron_nas(plan)


def nemotron_nas(plan: WidthPlan) -> str | None:
    """Why ``nemotron-nas`` can't say what the widths of a plan are; `None` if it can.

    Its layers have KV groups and an MLP size of their own, as a number of query heads that share a KV head, of one
    number for all layers, and as a factor of the hidden size.
    """
    if not plan.is_llama:
        return "its layers are LLaMA's, and this model's norms, biases or rotations differ: only equal widths fit"
    if lost := _lost_dims(plan):
        return lost
    first = next(layer for layer in plan.layers if layer.has_attention or layer.has_mlp)
    if not first.has_attention:
        return "vLLM begins its residual stream in attention, and the first layer has none"
    heads = sorted({layer.num_attention_heads for layer in plan.layers if layer.has_attention})
    if len(heads) > 1:
        return f"layers have {heads[0]} to {heads[-1]} query heads, and it has one number for all"
    return _ragged(plan, NEMOTRON_NAS_MULTIPLE)


def _mlx(plan: WidthPlan) -> str | None:
    heads = plan.widest.num_attention_heads
    misfit = vllm(plan)
    if misfit is None and not plan.is_stock and heads * plan.head_dim != plan.hidden_size:
        return f"{heads} query heads of {plan.head_dim} dims aren't the hidden size, {plan.hidden_size}"
    return misfit


def _lost_dims(plan: WidthPlan) -> str | None:
    for index, layer in enumerate(plan.layers):
        if layer.has_attention and {layer.qk_head_dim, layer.v_head_dim} != {plan.head_dim}:
            return f"heads of layer {index} lost dims, and it has one head dim for all"
    return None


def _ragged(plan: WidthPlan, multiple: int) -> str | None:
    for index, layer in enumerate(plan.layers):
        if layer.intermediate_size % multiple:
            return f"the {layer.intermediate_size} MLP dims of layer {index} are not a multiple of {multiple}"
    return None


_ZEROS = "it fills heads that lost dims up with zeros, and K-quants hold rows in blocks of 256"
_ONE_NUMBER = "its nemotron-nas has one number of query heads, and MLP sizes that are multiples of 256"

RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("mlc", (), 32, "the definition has widths of its own for each layer", lambda plan: None),
        Runtime("llama.cpp", ("mlp", "groups"), K_QUANT_BLOCK, _ZEROS, _llama_cpp),
        Runtime("vllm", ("mlp",), NEMOTRON_NAS_MULTIPLE, _ONE_NUMBER, vllm),
        Runtime("mlx", ("mlp",), NEMOTRON_NAS_MULTIPLE, _ONE_NUMBER, _mlx),
    )
}


def verdicts(plan: WidthPlan) -> dict[str, str]:
    """What to say of a plan in each runtime: ``yes``, or why not; of llama.cpp, what `export` does."""
    said = {name: f"no: {misfit}" if misfit else "yes" for name, misfit in misfits(plan).items()}
    if said["llama.cpp"] != "yes" and gguf_architecture(plan)[1] is None:
        said["llama.cpp"] = f"in the Q4_0 or F16 that `export` writes{said['llama.cpp'].removeprefix('no')}"
    return said


def one_width(plan: WidthPlan) -> str:
    """llama.cpp's architecture of a model, if that has one width for all layers; else empty."""
    first, *others = plan.layers
    uneven = plan.with_layers((replace(first, intermediate_size=first.intermediate_size + 1), *others))
    architecture, misfit = gguf_architecture(uneven)
    return architecture if misfit else ""


def offer(plan: WidthPlan) -> str:
    """What to say before a model is cut for no runtime in particular."""
    llama_cpp = (
        f"not in llama.cpp, whose {name} has one width for all layers"
        if (name := one_width(plan))
        else ("in llama.cpp with zeros where heads lose dims")
    )
    return f"The cut model runs in MLC-LLM, {llama_cpp}. To run it elsewhere, say so now: --for llama.cpp, vllm or mlx."


def misfits(plan: WidthPlan) -> dict[str, str | None]:
    """Why a plan doesn't fit each runtime; `None` where it does."""
    return {name: runtime.misfit(plan) for name, runtime in RUNTIMES.items()}
