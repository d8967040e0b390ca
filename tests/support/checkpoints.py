"""Small checkpoints: a tiny LLaMA's sizes, and a plan whose layers all differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    from pathlib import Path

    import torch

TINY = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
"""A LLaMA of a few thousand parameters whose heads don't add up to its hidden size."""


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
"""Scaled RoPE, for `rope_parameters`."""

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4}
LONGROPE |= {"partial_rotary_factor": 0.75, "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.5, 3.0, 4.0]}
"""For heads of 8 dims, of which 6 rotate."""

SIZES = {"rope_theta": 1e4, "context_window_size": 64, "prefill_chunk_size": 16, "max_batch_size": 1}
"""What a definition needs besides `config.json`."""


FAMILIES = {
    "mistral": {"model_type": "mistral", "sliding_window": None, "head_dim": 16},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "smollm3": {
        "model_type": "smollm3", "no_rope_layer_interval": 2, "pad_token_id": None, "rope_parameters": YARN,
    },
    "phi3": {
        "model_type": "phi3", "original_max_position_embeddings": 16, "pad_token_id": None, "rope_parameters": LONGROPE,
    },
}  # fmt: skip
"""Other families than LLaMA, for `save_llama`."""

GEMMA3 = {
    "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 12,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
"""A Gemma 3, for `save_llama`; the window is shorter than most texts."""

WHOLE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.2, 1.5, 2.0]}
WHOLE |= {"long_factor": [1.5, 3.0, 4.0, 5.0]}
MODELS = {**FAMILIES, "phi3, whole heads": FAMILIES["phi3"] | {"rope_parameters": WHOLE}}
"""And Phi-3.5, where RoPE rotates all dims of a head."""


def save_llama(path: Path, seed: int = 0, model_type: str = "llama", **config) -> Path:
    """Writes a stock LLaMA, or another model of `FAMILIES`, with random weights, `TINY` but for `config`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**TINY, **config}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.3, 3)
        elif model_type == "gemma3_text" and name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, -0.5, 1.5)
    model.save_pretrained(path)
    return path


def odd_plan(plan: WidthPlan) -> WidthPlan:
    """Every layer different, the first with one KV group."""
    ratio = plan.q_per_kv
    return plan.with_layers(
        replace(layer, num_attention_heads=ratio * groups, num_key_value_heads=groups, intermediate_size=size)
        for layer, groups, size in zip(plan.layers, (1, 2, 2, 2), (7, 12, 33, 20), strict=False)
    )


def lost_plan(plan: WidthPlan) -> WidthPlan:
    """Layer 0 has no attention, layer 1 neither attention nor an MLP, and the last layer no MLP."""
    first, second, *others, last = plan.layers
    no_heads = {"num_attention_heads": 0, "num_key_value_heads": 0}
    neither = replace(second, **no_heads, intermediate_size=0)
    return plan.with_layers([replace(first, **no_heads), neither, *others, replace(last, intermediate_size=0)])


def narrowed(source: Checkpoint, plan: WidthPlan) -> Iterator[tuple[str, torch.Tensor]]:
    """The source's tensors, each cut to the plan's shape from the start."""
    for name, shape in tensor_shapes(plan).items():
        yield name, source.tensor(name)[tuple(slice(size) for size in shape)]
