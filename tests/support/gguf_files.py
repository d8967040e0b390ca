"""GGUF files of small models."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from edge_transact.checkpoint import Checkpoint


def write_gguf(path: Path, checkpoint: Checkpoint, tensor_type: str, **metadata) -> None:
    """A GGUF as llama.cpp's converter writes it: its names, q and k rows interleaved, matrices quantized."""
    config = checkpoint.config
    writer = gguf.GGUFWriter(path, metadata.get("architecture", "llama"))
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(checkpoint.rope_theta)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    words = [f"t{index}" for index in range(config["vocab_size"])]
    words[3:7] = ["a", "b", "ab", "abb"]
    writer.add_token_list(metadata.get("words", words))
    writer.add_token_merges(metadata.get("merges", ["a b", "ab b"]))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name in checkpoint.tensor_names():
        tensor = checkpoint.tensor(name).float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            halves = tensor.reshape(-1, 2, config["head_dim"] // 2, tensor.shape[1])
            tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
        kind = gguf.GGMLQuantizationType[tensor_type if tensor.ndim > 1 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    for name, data in metadata.get("tensors", {}).items():
        writer.add_tensor(name, data)
    for name, value in metadata.get("extra", {}).items():
        kind = gguf.GGUFValueType.UINT64 if isinstance(value, int) else gguf.GGUFValueType.STRING
        writer.add_key_value(name, value, kind)
    _finish(writer)


def copy_gguf(
    source: Path, target: Path, *, without: Sequence[str] = (), in_float32: Sequence[str] = (), **adds
) -> Path:
    """Copies a GGUF file.

    Args:
        source: The file.
        target: The copy.
        without: Metadata and tensors whose names begin so are left out.
        in_float32: Tensors whose names contain one of these are dequantized by gguf; an empty string is in all names.
        adds: Metadata, by the names of `gguf.GGUFWriter`'s methods without their ``add_``.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture", *without)):
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for name, value in adds.items():
        getattr(writer, f"add_{name}")(value)
    for tensor in reader.tensors:
        if any(tensor.name.startswith(name) for name in without):
            continue
        if any(name in tensor.name for name in in_float32):
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    _finish(writer)
    return target


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
