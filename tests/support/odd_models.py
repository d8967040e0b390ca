"""LLaMAs whose layers all differ, with biases: as a checkpoint, a definition and shards to build libraries from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge_transact.architecture.families import with_rope_of
from edge_transact.building.dist import definition_config
from edge_transact.building.parity import reference_model
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.definition import Definition, load, render
from edge_transact.quantization import Quantization, get_quantization
from edge_transact.weights import ShardReader
from edge_transact.weights.convert import convert

CONFIG = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.1,
    "attention_bias": True, "mlp_bias": True,
    "per_layer_config": {
        "1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 41},
        "2": {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 64},
    },
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip
OWN_DIMS = {
    **CONFIG,
    "head_dim": 20,
    "per_layer_config": {
        "0": {"qk_head_dim": 14, "v_head_dim": 10},
        "1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 41, "v_head_dim": 7},
        "2": {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 64, "qk_head_dim": 6},
    },
    "qk_head_dim": 16,
    "v_head_dim": 13,
}
QWEN2_BIASES = {"attention_out_bias": False, "mlp_bias": False}
"""Of q, k and v alone."""
NO_BIASES = {"attention_bias": False, "mlp_bias": False}
NORMED = NO_BIASES | {"use_qk_norm": True}
"""What Qwen3 adds to LLaMA."""
NORMED_OWN_DIMS = {
    **OWN_DIMS,
    **QWEN2_BIASES,
    "use_qk_norm": True,
    "head_dim": 16,
    "per_layer_config": {
        index: {name: size for name, size in layer.items() if name != "qk_head_dim"}
        for index, layer in OWN_DIMS["per_layer_config"].items()
    },
}
NOPE = {
    **NO_BIASES,
    "no_rope_layers": [1, 0, 1],
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip
"""What SmolLM3 adds to LLaMA."""
PARTIAL_OWN_DIMS = {
    **OWN_DIMS,
    **NO_BIASES,
    "no_rope_layers": [1, 1, 0],
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 5000.0, "original_max_position_embeddings": 32, "factor": 8.0,
        "partial_rotary_factor": 0.6, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 2.0], "long_factor": [2.0] * 6,
    },
}  # fmt: skip
"""With the RoPE of Phi-3, beyond its original length, a layer without it, and heads that lost dims."""
NO_ATTENTION, NO_MLP = {"num_attention_heads": 0, "num_key_value_heads": 0}, {"intermediate_size": 0}
NEITHER = NO_ATTENTION | NO_MLP
GONE = CONFIG | {
    "num_hidden_layers": 6,
    "per_layer_config": {
        "0": NO_ATTENTION,
        "1": NO_MLP,
        "2": {"num_attention_heads": 4, "num_key_value_heads": 2},
        "3": NEITHER,
        "4": NO_ATTENTION | {"intermediate_size": 64},
        "5": NO_MLP,
    },
}
"""Layers without attention, without an MLP, or without both; the first and the last, too."""
GONE_OWN_DIMS = {
    **OWN_DIMS,
    **NO_BIASES,
    "num_hidden_layers": 4,
    "per_layer_config": {"0": NO_MLP, "1": {"qk_head_dim": 14, "v_head_dim": 10}, "2": NO_ATTENTION, "3": NEITHER},
}
"""The same where heads lost dims."""
GONE_NORMED = {
    **CONFIG, **NORMED, "num_hidden_layers": 4, "per_layer_config": {"0": NEITHER, "2": NO_MLP, "3": NO_ATTENTION},
}  # fmt: skip
"""The same with norms of heads."""
SIZES = {"context_window_size": 64, "prefill_chunk_size": 16, "max_batch_size": 4}


@dataclass(frozen=True)
class Source:
    """What libraries are built of."""

    checkpoint: Checkpoint
    definition: Definition
    directory: Path

    def weights(self, name: str) -> tuple[Path, Quantization]:
        """The directory of the shards in a quantization."""
        quantization = get_quantization(name)
        directory = self.directory / name
        if not directory.exists():
            directory.mkdir()
            convert(self.checkpoint, self.definition.parameter_sources(), quantization, directory)
        return directory, quantization

    def reference(self, name: str):
        """The torch model with the weights as the shards hold them."""
        directory, quantization = self.weights(name)
        sources = self.definition.parameter_sources()
        config = with_rope_of(self.checkpoint.config, SIZES["context_window_size"])
        return reference_model(ShardReader(directory), sources, config, self.checkpoint.plan, quantization)


def make_source(directory: Path, config: dict) -> Source:
    """A checkpoint with random weights, and what libraries are built of it."""
    torch.manual_seed(0)
    model = EdgeLlamaForCausalLM(EdgeLlamaConfig(**config))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            torch.nn.init.uniform_(parameter, 0.5, 2)
    for name, buffer in model.named_buffers():
        if name.endswith("rope_pairs"):
            for row in buffer:
                row.copy_(torch.randperm(config["head_dim"] // 2)[: len(row)].sort().values)
    model.save_pretrained(directory / "checkpoint")
    checkpoint = Checkpoint.open(directory / "checkpoint")
    return Source(checkpoint, emitted(checkpoint, directory / "definition"), directory)


def emitted(checkpoint: Checkpoint, directory: Path, sizes: dict[str, int] = SIZES) -> Definition:
    """The definition of a checkpoint, whose files are written to a new directory."""
    directory.mkdir(parents=True)
    for name, text in render(checkpoint.plan).items():
        (directory / name).write_text(text)
    return load(checkpoint.plan, definition_config(checkpoint, sizes))


FUNCTIONS = [
    "_metadata", "embed", "prefill", "decode", "batch_prefill", "batch_decode", "create_tir_paged_kv_cache",
    "softmax_with_temperature", "alloc_embedding_tensor", "apply_logit_bias_inplace", "apply_penalty_inplace",
    "apply_bitmask_inplace",
]  # fmt: skip
"""What MLC's engine looks up in a library."""

MODEL_LIB = "edge_llama_odd_0123abcd"


@dataclass(frozen=True)
class Archive:
    """A library for a phone, the executable embedded in it, and its module."""

    path: Path
    executable: Any
    planned: Any
    metadata: dict[str, Any]
