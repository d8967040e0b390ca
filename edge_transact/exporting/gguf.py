"""Writes a checkpoint or a DIST as a GGUF file for llama.cpp and its apps, one tensor at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edge_transact import costs
from edge_transact.artifacts.digests import SEAL, UNSEALED, seal
from edge_transact.artifacts.outputs import new_file, refuse_existing
from edge_transact.errors import EdgeTransactError
from edge_transact.exporting.metadata import add_metadata
from edge_transact.exporting.model import Model, open_model
from edge_transact.exporting.tensors import packed_bytes
from edge_transact.exporting.tokenizer import add_tokenizer
from edge_transact.gguf import layout
from edge_transact.progress import track
from edge_transact.system.disk import require_space

MAGIC = b"GGUF"


@dataclass(frozen=True)
class Export:
    """A GGUF file that was written.

    Attributes:
        architecture: llama.cpp's name of the architecture.
        kind: The type of most matrices.
        matrices: Number of matrices by type.
        other_bytes: Extra bytes of matrices that are of another type than `kind`.
        filled_parameters: Number of zeros: dims cut from heads, and attention or MLPs that llama.cpp needs.
        filled_kv_bytes_per_token: Bytes of these dims in llama.cpp's fp16 KV cache.
    """

    path: Path
    architecture: str
    kind: str
    size_bytes: int
    matrices: Mapping[str, int]
    other_bytes: int
    filled_parameters: int
    filled_kv_bytes_per_token: int

    def to_dict(self) -> dict[str, object]:
        """The object that ``export --json`` prints."""
        return {**vars(self), "path": str(self.path), "matrices": dict(self.matrices)}


def export_gguf(
    model: str,
    output: Path,
    *,
    kind: str | None = None,
    pre: str | None = None,
    tokenizer: bool = True,
    force: bool = False,
) -> Export:
    """Writes a GGUF file, complete or not at all.

    Args:
        kind: The type of a MODEL's matrices: ``f16``, the default, ``bf16``, ``q8_0`` or ``q4_0``. A DIST has its own.
        pre: llama.cpp's name of how the tokenizer splits text, if it isn't recognized.
        tokenizer: Without one, llama.cpp reads no text, as ``llama-bench`` doesn't.

    Raises:
        UsageError: `kind` isn't the DIST's.
        EdgeTransactError: The model or its tokenizer doesn't fit, `output` exists, or its disk is full.
    """
    refuse_existing(output, force, apart_from=[model], begins=MAGIC)
    with open_model(model, kind) as source, new_file(output, MAGIC, force=force) as fresh:
        return _write(source, fresh, output, pre, tokenizer)


def _write(model: Model, fresh: Path, output: Path, pre: str | None, tokenizer: bool) -> Export:
    writer = gguf.GGUFWriter(fresh, model.architecture)
    writer.add_string(f"edge_transact.{SEAL}", UNSEALED)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{model.kind.name}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, model)
    if tokenizer:
        add_tokenizer(writer, model.directory, model.plan.vocab_size, pre)
    else:
        writer.add_tokenizer_model("none")
    add_metadata(writer, model, name=output.stem)
    kinds = model.tensors.kinds()
    float32 = np.dtype(np.float32)

    def place_name(part: tuple[str, object]) -> str:
        return model.places[part[0]].name

    for stored, parts in groupby(kinds.items(), key=place_name):  # Phi's are several of ours, one below the other
        places = [(model.places[name], kind) for name, kind in parts]
        shape = (sum(place.shape[0] for place, _ in places), *places[0][0].shape[1:])
        # float32, so that gguf reads the shape as elements rather than bytes.
        size = sum(packed_bytes(place, kind) for place, kind in places)
        writer.add_tensor_info(stored, shape, float32, size, raw_dtype=places[0][1])
    others = layout.rope_tensors(model.rope_theta, model.rope_scaling, model.plan.head_dim)
    for stored, shape in layout.fillers(model.plan).items():
        others[stored] = np.zeros(shape, np.float16 if len(shape) > 1 else float32)
    for stored, values in others.items():
        writer.add_tensor_info(stored, values.shape, values.dtype, values.nbytes)
    size = sum(tensor.nbytes for tensor in writer.tensors[0].values())
    require_space(output.absolute().parent, size, f"{output} needs", "Make room, or write elsewhere.")
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        packed = track(model.tensors.packed(), f"write {output.name}", total=len(kinds))
        for _, group in groupby(zip(kinds, packed, strict=True), key=place_name):
            writer.write_tensor_data(np.concatenate([part for _, part in group]))
        for values in others.values():
            writer.write_tensor_data(values)
        writer.close()
        seal(fresh)
    except OSError as error:
        raise EdgeTransactError(f"{output} can't be written: {error}", fix="Make room, or write elsewhere.") from error
    return _summary(model, output, fresh.stat().st_size)


def _add_sizes(writer: gguf.GGUFWriter, model: Model) -> None:
    plan, layers = model.plan, model.whole.layers
    writer.add_block_count(len(layers))
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(plan.hidden_size)
    writer.add_vocab_size(plan.vocab_size)
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_rope_dimension_count(plan.rotary_dim)
    if model.architecture == "phi3":
        writer.add_sliding_window(0)  # none, as llama.cpp's converter states it
    if model.architecture == "gemma3":
        writer.add_sliding_window(plan.window_size)
    if scaling := model.rope_scaling:
        _add_rope_scaling(writer, scaling)
    writer.add_key_length(plan.head_dim)
    writer.add_value_length(plan.head_dim)
    for add, field in (
        (writer.add_head_count, "num_attention_heads"),
        (writer.add_head_count_kv, "num_key_value_heads"),
        (writer.add_feed_forward_length, "intermediate_size"),
    ):
        widths = [getattr(layer, field) for layer in layers]
        add(widths if model.architecture == layout.VARIABLE else widths[0])


def _add_rope_scaling(writer: gguf.GGUFWriter, scaling: Mapping[str, Any]) -> None:
    """YaRN's and LongRoPE's settings; Llama 3's are `layout.ROPE_FREQS` alone."""
    if scaling["rope_type"] == "llama3":
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    writer.add_rope_scaling_orig_ctx_len(original)
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_attn_factors(_yarn_attention(scaling) / _yarn_attention({"factor": factor}))
    else:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        writer.add_rope_scaling_attn_factors(scaling.get("attention_factor") or attention)


def _yarn_attention(scaling: Mapping[str, Any]) -> float:
    """By what transformers multiplies cosines and sines. llama.cpp does by that of the factor alone, times its key."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    of_factor = 0.1 * math.log(max(scaling["factor"], 1))
    upper, lower = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return (1 + upper * of_factor) / (1 + lower * of_factor) if upper and lower else 1 + of_factor


def _summary(model: Model, output: Path, size: int) -> Export:
    kinds = {name: kind for name, kind in model.tensors.kinds().items() if len(model.places[name].shape) == 2}
    bits = {kind: 8 * block_bytes / weights for kind, (weights, block_bytes) in gguf.GGML_QUANT_SIZES.items()}
    other = sum(
        math.prod(model.places[name].shape) * (bits[kind] - bits[model.kind]) / 8 for name, kind in kinds.items()
    )
    heads = sum(layer.num_key_value_heads for layer in model.whole.layers)
    kept = sum(layer.num_key_value_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in model.plan.layers)
    return Export(
        path=output,
        architecture=model.architecture,
        kind=model.kind.name,
        size_bytes=size,
        matrices={kind.name: count for kind, count in Counter(kinds.values()).most_common()},
        other_bytes=round(other),
        filled_parameters=costs.parameters(model.whole) - costs.parameters(model.plan),
        filled_kv_bytes_per_token=2 * (2 * heads * model.plan.head_dim - kept),
    )
