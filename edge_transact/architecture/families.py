"""The families of models that are read as ``edge_llama``, and how their ``config.json`` and tensors differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_transact.architecture.matrices import ATTENTION_INPUTS, MLP_INPUTS, Matrix
from edge_transact.widths import PAIRS_ARE_NORMED, WidthPlan

SOURCE_TYPE = "source_model_type"
"""The field of a pruned model's ``config.json`` that names the family it comes from, if that isn't LLaMA."""


@dataclass(frozen=True)
class Family:
    """A ``model_type`` of transformers.

    Attributes:
        architecture: transformers' class of its language models.
        fixed: Fields of ``edge_llama``'s configuration whose values its code has, or a value by the name of its field.
        defaults: What transformers has where ``config.json`` leaves a field out.
        dropped: Fields that ``edge_llama`` doesn't have, because they change nothing here.
        has_window: The field that turns its sliding window on; empty if `sliding_window` alone does.
        fused: Tensors that hold several matrices, one after the other, by the name in a layer.
        uncut: Units that can't be cut, with the reason.
        gguf: llama.cpp's name of the architecture for layers that are all alike.
        ends: Tokens that end an answer in MLC, besides those that the checkpoint itself names.
    """

    model_type: str
    title: str
    architecture: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    has_window: str = ""
    fused: Mapping[str, tuple[Matrix, ...]] = field(default_factory=dict)
    uncut: Mapping[str, str] = field(default_factory=dict)
    gguf: str = "llama"
    ends: tuple[str, ...] = ()


_NO_BIASES = {"attention_bias": False, "mlp_bias": False}
_WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_QWEN_ENDS = ("<|endoftext|>", "<|im_end|>")

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "LLaMA", "LlamaForCausalLM"),
        Family(
            "mistral",
            "Mistral",
            "MistralForCausalLM",
            fixed=_NO_BIASES,
            dropped=_WINDOW,
            defaults={"sliding_window": 4096},
        ),
        Family(
            "qwen2",
            "Qwen2",
            "Qwen2ForCausalLM",
            fixed={"attention_bias": True, "attention_out_bias": False, "mlp_bias": False},
            dropped=_WINDOW,
            has_window="use_sliding_window",
            gguf="qwen2",
            ends=_QWEN_ENDS,
        ),
        Family(
            "qwen3",
            "Qwen3",
            "Qwen3ForCausalLM",
            fixed={"mlp_bias": False, "use_qk_norm": True},
            defaults={"head_dim": 128},
            dropped=_WINDOW,
            has_window="use_sliding_window",
            uncut={"queries-keys": PAIRS_ARE_NORMED},
            gguf="qwen3",
            ends=_QWEN_ENDS,
        ),
        Family(
            "smollm3",
            "SmolLM3",
            "SmolLM3ForCausalLM",
            defaults={"no_rope_layer_interval": 4, "rope_theta": 2000000.0, "tie_word_embeddings": True},
            dropped=(*_WINDOW, "no_rope_layer_interval"),
            has_window="use_sliding_window",
            gguf="smollm3",
        ),
        Family(
            "phi3",
            "Phi-3",
            "Phi3ForCausalLM",
            fixed=_NO_BIASES,
            defaults={"original_max_position_embeddings": 4096},
            dropped=(*_WINDOW, "embd_pdrop", "resid_pdrop"),
            fused={"self_attn.qkv_proj": ATTENTION_INPUTS, "mlp.gate_up_proj": MLP_INPUTS},
            gguf="phi3",
            ends=("<|endoftext|>", "<|end|>"),
        ),
    )
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model of any kind that `translated` returns, pruned ones included."""
    return FAMILIES[str(config.get(SOURCE_TYPE) or "llama")]


def window_of(config: Mapping[str, Any]) -> int | None:
    """The tokens to which a family's ``config.json`` limits attention; `None` if that is no limit."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or family.model_type == "llama" or (family.has_window and not config.get(family.has_window)):
        return None
    if "sliding_attention" not in (config.get("layer_types") or ("sliding_attention",)):
        return None
    window, context = {**family.defaults, **config}.get("sliding_window"), config.get("max_position_embeddings")
    has_all = isinstance(context, int) and isinstance(window, int) and window >= context
    return window if window and not has_all else None


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A family's ``config.json`` in the fields of ``edge_llama``; one of LLaMA or of ours is returned as it is."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or family.model_type == "llama":
        return dict(config)
    values = {**family.defaults, **config, **family.fixed, SOURCE_TYPE: family.model_type}
    if "no_rope_layer_interval" in values and not values.get("no_rope_layers"):
        every, layers = values["no_rope_layer_interval"], values["num_hidden_layers"]
        values["no_rope_layers"] = [int((layer + 1) % every != 0) for layer in range(layers)]
    values["rope_parameters"] = rope_parameters(values)
    dropped = (*family.dropped, "rope_scaling", "rope_theta", "partial_rotary_factor", _ORIGINAL)
    return {name: value for name, value in values.items() if name not in dropped}


_ORIGINAL = "original_max_position_embeddings"


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's settings as transformers 5 has them in one field: ``rope_type``, ``rope_theta``, ...

    Version 4 wrote ``rope_theta`` and ``rope_scaling``, earlier with `type`.
    """
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    for name in ("rope_theta", "partial_rotary_factor"):
        if name not in rope and config.get(name) is not None:
            rope[name] = config[name]
    if config.get("model_type") == "phi3" and rope.get("rope_type") in ("su", "yarn"):
        rope["rope_type"] = "longrope"  # its earlier names
    if rope.get("rope_type") in ("llama3", "yarn", "longrope"):
        length = config.get("max_position_embeddings")
        rope[_ORIGINAL] = config.get(_ORIGINAL) or rope.get(_ORIGINAL) or length
        if rope["rope_type"] == "longrope" and rope.get("factor") is None and length:
            rope["factor"] = length / rope[_ORIGINAL]
    return rope


def with_rope_of(config: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A translated configuration with RoPE as a library of this context has it.

    transformers chooses LongRoPE's factors by the length of each text, and a library, whose KV cache holds rotated
    keys, by that of the context.
    """
    rope = dict(config.get("rope_parameters") or {})
    if rope.get("rope_type") != "longrope" or context <= rope[_ORIGINAL]:
        return dict(config)
    rope["short_factor"] = rope["long_factor"]
    # transformers prefers version 4's field, which pruned models have too.
    return {name: value for name, value in config.items() if name != "rope_scaling"} | {"rope_parameters": rope}


def order_in_heads(plan: WidthPlan) -> tuple[int, ...]:
    """Which dim of a family's query and key heads each of ours is; empty if all are in order.

    Where RoPE rotates the first ``r`` of a head's ``d`` dims, in pairs ``(i, i + r / 2)``, all dims become pairs
    ``(i, i + d / 2)``, of which the first ``r / 2`` rotate. Queries and keys have one order, so their products stay.
    """
    rotated, still = plan.rotary_dim // 2, (plan.head_dim - plan.rotary_dim) // 2
    firsts = [*range(rotated), *range(2 * rotated, 2 * rotated + still)]
    return (*firsts, *(dim + (rotated if dim < rotated else still) for dim in firsts)) if still else ()
