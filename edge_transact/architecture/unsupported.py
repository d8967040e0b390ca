"""What models have that ``edge_llama`` doesn't, found in their ``config.json``, and which model works instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_transact.architecture.families import FAMILIES, LAYER_TYPES, SOFTCAPS, windows_of
from edge_transact.widths import ACTIVATIONS

OURS = "edge_llama"
"""The ``model_type`` of pruned models."""


@dataclass(frozen=True)
class _Feature:
    """A part that ``edge_llama`` lacks, `fields` that tell of it, what it `needs`, and the `nearest` model without."""

    has: str
    fields: tuple[str, ...]
    needs: str
    nearest: str


_FEATURES = (
    _Feature(
        "has layers of linear attention (Gated DeltaNet)",
        ("linear_num_value_heads",),
        "a recurrent state beside the KV cache and kernels that update it",
        "Qwen/Qwen3-1.7B, whose layers all have attention",
    ),
    _Feature(
        "has short convolutions instead of attention in some layers",
        ("conv_L_cache",),
        "a state of past inputs beside the KV cache",
        "meta-llama/Llama-3.2-1B-Instruct",
    ),
    _Feature(
        "has state-space layers (Mamba)",
        ("mamba_d_state", "mamba_d_ssm", "ssm_cfg", "state_size"),
        "a recurrent state beside the KV cache and kernels that update it",
        "tiiuae/Falcon3-1B-Instruct",
    ),
    _Feature(
        "has per-layer embeddings",
        ("hidden_size_per_layer_input",),
        "a second embedding that every layer reads",
        "Qwen/Qwen3-1.7B",
    ),
    _Feature(
        "is a mixture of experts",
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "kernels that route tokens to experts, and experts as units to cut",
        "a dense one such as Qwen/Qwen3-4B",
    ),
    _Feature(
        "has a vision or audio tower",
        ("vision_config", "audio_config", "visual", "img_processor"),
        "an encoder of images or sound next to the language model",
        "a model of text alone such as Qwen/Qwen3-1.7B",
    ),
)

_LAYER_NORM = "LayerNorm instead of RMSNorm, and an MLP or attention unlike LLaMA's"
_OUTPUT_NORMS = "norms of the outputs of attention and the MLP"
_GEMMA = "caps of logits, or norms unlike Gemma 3's"
_OTHERS = {
    **dict.fromkeys(("gemma", "gemma2"), (_GEMMA, "google/gemma-3-1b-it")),
    **dict.fromkeys(("olmo2", "olmo3", "exaone4", "glm4"), (_OUTPUT_NORMS, "Qwen/Qwen3-1.7B")),
    "granite": ("multipliers of embeddings, attention, residuals and logits", "meta-llama/Llama-3.2-3B-Instruct"),
    "ministral": ("windows of attention in some layers", "mistralai/Mistral-7B-Instruct-v0.3"),
    "ministral3": ("queries that are scaled by their position", "mistralai/Mistral-7B-Instruct-v0.3"),
    "phi": (_LAYER_NORM, "microsoft/Phi-3.5-mini-instruct"),
    "falcon": (_LAYER_NORM, "tiiuae/Falcon3-1B-Instruct"),
    **dict.fromkeys(("gpt2", "gpt_neox", "opt", "bloom"), (_LAYER_NORM, "HuggingFaceTB/SmolLM2-135M-Instruct")),
    **dict.fromkeys(("stablelm", "starcoder2", "nemotron", "cohere"), (_LAYER_NORM, "Qwen/Qwen2.5-1.5B-Instruct")),
}
"""By the ``model_type`` of a known family without support: what it would need, and the nearest model that works."""

_NEW_FAMILY = ("an entry in the table of families (docs/lab/new-family.md)", "Qwen/Qwen3-1.7B")


def unsupported(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a model can't be read, with what it would need, and how to go on; `None` if it can be."""
    model_type = config.get("model_type")
    name = f"{', '.join(config.get('architectures') or []) or 'unknown'} (model_type {model_type!r})"
    values = {**(config.get("text_config") or {}), **config}
    if model_type == "gemma3":
        fix = "Use a model of text alone, such as google/gemma-3-1b-it, or save the text part of this one: "
        fix += "Gemma3ForConditionalGeneration's language_model and lm_head, as a Gemma3ForCausalLM."
        return f"{name} has a vision tower beside its language model, which is a gemma3_text", fix
    for feature in _FEATURES:
        if any(values.get(field) for field in feature.fields):
            return f"{name} {feature.has}, which would need {feature.needs}", f"Use {feature.nearest}."
    if model_type != OURS and model_type not in FAMILIES:
        needs, nearest = _OTHERS.get(str(model_type), _NEW_FAMILY)
        titles = ", ".join(family.title for family in FAMILIES.values())
        return f"{name} is none of {titles}; it would need {needs}", f"Use a model of these families such as {nearest}."
    if quantized := config.get("quantization_config") or config.get("quantization"):
        method = quantized.get("quant_method", "mlx" if "quantization" in config else "unknown")
        problem = f"its weights are quantized already ({method}), and would have to be dequantized first"
        return problem, "Use the checkpoint that it was made from, in BF16 or F16; `build` quantizes it."
    if (activation := config.get("hidden_activation") or config.get("hidden_act", "silu")) not in ACTIVATIONS:
        known = " or ".join(map(repr, ACTIVATIONS))
        return f"the MLP's activation is {activation!r}, not {known}", "Use a model with a SiLU MLP."
    if capped := next((field for field in SOFTCAPS if config.get(field)), None):
        return f"{capped} caps logits, which is not computed", "Use a model without it, such as google/gemma-3-1b-it."
    if config.get("use_bidirectional_attention"):
        return "attention looks ahead (use_bidirectional_attention), as in an encoder", "Use a language model."
    if refused := _unknown_layers(config):
        return refused, "Use the config.json that belongs to these weights."
    window, _ = windows_of(config)
    if window and model_type != "gemma3_text":
        problem = f"attention has a sliding window of {window} tokens, which would need a KV cache that forgets"
        fix = (
            f'If {window} tokens are enough, set "sliding_window" to null in config.json: so far, it changes nothing. '
        )
        return problem, f"{fix}Or use a model without one, such as Mistral v0.3 or Qwen2.5."
    return None


def _unknown_layers(config: Mapping[str, Any]) -> str | None:
    """Why the kinds of layers in ``config.json`` can't be right; `None` if they can."""
    types, layers = config.get("layer_types"), config.get("num_hidden_layers")
    if types is None or config.get("model_type") not in FAMILIES:
        return None
    if unknown := next((kind for kind in types if kind not in LAYER_TYPES), None):
        return f"layer_types has {unknown!r}, which is neither {' nor '.join(LAYER_TYPES)}"
    if isinstance(layers, int) and len(types) != layers:
        return f"layer_types has {len(types)} entries for {layers} layers"
    rope = config.get("rope_parameters")
    local = rope.get("sliding_attention") if isinstance(rope, Mapping) else None
    if isinstance(local, Mapping) and local.get("rope_type", "default") != "default":
        return f"rope_parameters scales RoPE as {local['rope_type']} in layers with a sliding window"
    if config["model_type"] != "gemma3_text":
        return None
    window, has_sliding = config.get("sliding_window", 0), "sliding_attention" in types
    if (window is None) == has_sliding:
        return f"sliding_window is {window}, and layer_types has {'' if has_sliding else 'no '}sliding_attention"
    return None
