"""The families of models that are read as ``edge_llama``, and how their ``config.json`` and tensors differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_transact.architecture.matrices import (
    ATTENTION_INPUTS,
    DOWN,
    MLP_INPUTS,
    MLP_NORM,
    OUTPUT,
    OUTPUT_NORMS,
    Matrix,
)
from edge_transact.widths import MOST_LAYERS, PAIRS_ARE_NORMED, WidthPlan

SOURCE_TYPE = "source_model_type"
"""The field of a pruned model's ``config.json`` that names the family it comes from, if that isn't LLaMA."""


@dataclass(frozen=True)
class Family:
    """A ``model_type`` of transformers.

    Attributes:
        architecture: transformers' class of its language models.
        fixed: Fields of ``edge_llama``'s configuration whose values its code has, or a value by the name of its field.
        defaults: What transformers has where ``config.json`` leaves a field out.
        renamed: Fields that ``edge_llama`` has by another name.
        dropped: Fields that ``edge_llama`` doesn't have, because they change nothing here.
        has_window: The field that turns its sliding window on; empty if `sliding_window` alone does.
        scales_embedding: Whether hidden states begin as the embedding's rows times the root of their size.
        norms: The names of norms in its checkpoints, by ours, where they differ.
        norm_offset: What is added to the weights of all norms.
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
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    has_window: str = ""
    scales_embedding: bool = False
    norms: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0
    fused: Mapping[str, tuple[Matrix, ...]] = field(default_factory=dict)
    uncut: Mapping[str, str] = field(default_factory=dict)
    gguf: str = "llama"
    ends: tuple[str, ...] = ()


SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
"""Fields of caps that Gemma 2 has; in Gemma 3, they are null."""

_NO_BIASES = {"attention_bias": False, "mlp_bias": False}
_WINDOW = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "sliding_window_pattern")
_FULL, _SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = (_FULL, _SLIDING)
"""transformers' kinds of layers that are computed."""
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
        Family(
            "gemma3_text",
            "Gemma 3",
            "Gemma3ForCausalLM",
            fixed={"mlp_bias": False, "use_qk_norm": True, "use_output_norms": True},
            defaults={
                "hidden_activation": "gelu_pytorch_tanh",
                "head_dim": 256,
                "query_pre_attn_scalar": 256,
                "tie_word_embeddings": True,
                "rope_theta": 1000000.0,
                "rope_local_base_freq": 10000.0,
                "sliding_window": 4096,
                "sliding_window_pattern": 6,
            },
            renamed={"hidden_activation": "hidden_act", "rope_local_base_freq": "local_rope_theta"},
            dropped=(*_WINDOW, "_sliding_window_pattern", "use_bidirectional_attention", *SOFTCAPS),
            scales_embedding=True,
            norms={
                OUTPUT_NORMS[OUTPUT.name]: "post_attention_layernorm",
                MLP_NORM: "pre_feedforward_layernorm",
                OUTPUT_NORMS[DOWN.name]: "post_feedforward_layernorm",
            },
            norm_offset=1.0,
            uncut={"queries-keys": PAIRS_ARE_NORMED},
            gguf="gemma3",
            ends=("<end_of_turn>", "<eos>"),
        ),
    )
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model of any kind that `translated` returns, pruned ones included."""
    return FAMILIES[str(config.get(SOURCE_TYPE) or "llama")]


def windows_of(config: Mapping[str, Any]) -> tuple[int, list[int]]:
    """The sliding window of a family's ``config.json``, and for each layer 1 if it has it; 0 and none without.

    A window of the whole context is none, unless its layers differ in RoPE, too.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or family.model_type == "llama" or (family.has_window and not config.get(family.has_window)):
        return 0, []
    values = {**family.defaults, **config}
    window, context, layers = (
        values.get(name) for name in ("sliding_window", "max_position_embeddings", "num_hidden_layers")
    )
    has_all = isinstance(context, int) and isinstance(window, int) and window >= context
    if not isinstance(window, int) or (has_all and "rope_local_base_freq" not in values):
        return 0, []
    types, every, first = (values.get(name) for name in ("layer_types", "sliding_window_pattern", "max_window_layers"))
    if types is None:
        # Other numbers are refused with the fields' names, when they are read.
        every, first, layers = (number if isinstance(number, int) else 0 for number in (every, first, layers))
        has_window = [
            (index + 1) % every != 0 if every else index >= first for index in range(min(layers or 1, MOST_LAYERS))
        ]
    else:
        has_window = [kind == _SLIDING for kind in types]
    return (window, list(map(int, has_window))) if any(has_window) else (0, [])


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A family's ``config.json`` in the fields of ``edge_llama``; one of LLaMA or of ours is returned as it is."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or family.model_type == "llama":
        return dict(config)
    values = {**family.defaults, **config, **family.fixed, SOURCE_TYPE: family.model_type}
    if (local := (values.get("rope_parameters") or {}).get(_SLIDING)) is not None:
        values["rope_local_base_freq"] = local.get("rope_theta", values["rope_local_base_freq"])
    hidden = values.get("hidden_size")
    if family.scales_embedding and isinstance(hidden, int) and hidden > 0:
        values["embedding_multiplier"] = hidden**0.5
    window, has_window = windows_of(config)
    if window:
        values |= {"window_size": window, "window_layers": has_window}
    values |= {ours: values.pop(theirs) for theirs, ours in family.renamed.items()}
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
    if set(rope) & set(LAYER_TYPES):
        rope = dict(rope.get(_FULL) or {})
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
