"""Writes a checkpoint as ``nemotron-nas`` for vLLM and mlx-lm: a LLaMA whose MLPs differ in size.

Tensors stay. ``config.json`` gets a block for each layer, or is that of the model's own family if layers are alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edge_transact.architecture.families import Family, family_of, order_in_heads
from edge_transact.architecture.matrices import KEY, QUERY
from edge_transact.artifacts.manifest import MANIFEST
from edge_transact.artifacts.outputs import new_directory, refuse_existing
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.writer import (
    COPIED_FILES,
    copy_files,
    provenance_of,
    stock_config,
    write_provenance,
    write_shards,
)
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.runtimes import NEMOTRON_NAS_MULTIPLE, vllm
from edge_transact.widths import WidthPlan

CODE = "nvidia/Llama-3_1-Nemotron-51B-Instruct"
"""The hub's repository with classes that transformers lacks."""


def export_nemotron_nas(model: str, output: Path, *, force: bool = False) -> dict[str, Any]:
    """Writes a directory, complete or not at all, with at most one shard in memory; returns the object for ``--json``.

    Raises:
        UsageError: `model` is a DIST.
        EdgeTransactError: The format can't express the widths, the model can't be read, or `output` exists.
    """
    if (Path(model) / MANIFEST).is_file():
        raise UsageError(
            f"{model} is a DIST, and nemotron-nas has no quantized weights",
            fix="Export the checkpoint it was built from.",
        )
    checkpoint = Checkpoint.open(resolve_model(model))
    if misfit := vllm(checkpoint.plan):
        raise EdgeTransactError(
            f"{model} does not fit nemotron-nas: {misfit}", fix="Prune with --for vllm, or export a GGUF file."
        )
    refuse_existing(output, force, apart_from=[model])
    plan = checkpoint.plan
    config = stock_config(checkpoint.config, plan) if plan.is_stock else nemotron_nas_config(checkpoint)
    parts = stored_parts(plan, family_of(checkpoint.config))
    shapes = {name: (sum(checkpoint.shape(each)[0] for each in of), *checkpoint.shape(of[0])[1:]) for name, of in parts}
    with new_directory(output, force=force) as directory:
        tensors = ((name, torch.cat([_as_stored(checkpoint, each) for each in of])) for name, of in parts)
        write_shards(directory, shapes, tensors)
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_files(checkpoint.path, directory, COPIED_FILES)
        write_provenance(directory, provenance_of(checkpoint.path) or {"source": model})
    return {"output": str(output), "format": config["model_type"], "widths": plan.to_list()}


def stored_parts(plan: WidthPlan, family: Family) -> list[tuple[str, list[str]]]:
    """The tensors of a family's own checkpoint, and ours that each is made of, one below the other."""
    whole = {matrix.name: name for name, matrices in family.fused.items() for matrix in matrices}
    parts: dict[str, list[str]] = {}
    for name in tensor_shapes(plan):
        fused = name
        for own, theirs in whole.items():
            fused = fused.replace(own, theirs)
        parts.setdefault(fused, []).append(name)
    return list(parts.items())


def _as_stored(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A tensor with the rows of query and key heads in the order of its family's own checkpoints."""
    tensor, order = checkpoint.tensor(name), order_in_heads(checkpoint.plan)
    if order and any(matrix.name in name for matrix in (QUERY, KEY)):
        tensor = tensor.unflatten(0, (-1, len(order)))[:, torch.tensor(order).argsort()].flatten(0, 1)
    return tensor


def nemotron_nas_config(checkpoint: Checkpoint) -> dict[str, Any]:
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "initializer_range")
    plan, config = checkpoint.plan, checkpoint.config
    return {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {
            "AutoConfig": f"{CODE}--configuration_decilm.DeciLMConfig",
            "AutoModelForCausalLM": f"{CODE}--modeling_decilm.DeciLMForCausalLM",
        },
        "hidden_size": plan.hidden_size,
        "num_hidden_layers": plan.num_hidden_layers,
        "num_attention_heads": plan.widest.num_attention_heads,
        "head_dim": plan.head_dim,
        "vocab_size": plan.vocab_size,
        "tie_word_embeddings": plan.tie_word_embeddings,
        "attention_bias": plan.attention_bias,
        "mlp_bias": plan.mlp_bias,
        "hidden_act": "silu",
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),  # transformers' default
        "rope_theta": checkpoint.rope_theta,
        "rope_scaling": checkpoint.rope_scaling,
        "torch_dtype": config.get("dtype") or config.get("torch_dtype"),
        **{key: config[key] for key in kept if config.get(key) is not None},
        "block_configs": [_block(plan, index) for index in range(plan.num_hidden_layers)],
    }


def _block(plan: WidthPlan, index: int) -> Mapping[str, Any]:
    layer = plan.layers[index]
    # Readers compute int(2 * ffn_mult * hidden_size / 3) and round it up to a multiple of 256. Half of that is
    # subtracted, so that rounding the factor doesn't matter.
    ffn_mult = 3 * (layer.intermediate_size - NEMOTRON_NAS_MULTIPLE / 2) / (2 * plan.hidden_size)
    flags, sinks = {"replace_with_linear": False, "sparsify": None}, {"window_length": None, "num_sink_tokens": None}
    return {
        "attention": {"no_op": not layer.has_attention, **flags, "n_heads_in_group": layer.q_per_kv or None, **sinks},
        "ffn": {"no_op": not layer.has_mlp, **flags, "ffn_mult": round(ffn_mult, 6) if layer.has_mlp else None},
    }
