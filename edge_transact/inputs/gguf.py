"""Converts a LLaMA in a ``.gguf`` file to a Hugging Face directory.

transformers reads the configuration and the tokenizer. It would read the tensors too, but it builds a table of all
tensors' names for every module of the model, and holds the model in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.shards import write_shards
from edge_transact.errors import EdgeTransactError
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader

LLAMA3_LOW_FREQ_FACTOR, LLAMA3_HIGH_FREQ_FACTOR, LLAMA3_ORIGINAL_CONTEXT = 1.0, 4.0, 8192
"""RoPE scaling of all models from Llama 3.1 on; only the factor differs."""


def convert_gguf(file: Path, directory: Path) -> None:
    """Fills `directory` with the model and the tokenizer of a GGUF file.

    A file with F16 or F32 matrices becomes float32, exactly. Other files become bfloat16: its rounding, 2^-9 of a
    value, is far below their quantization steps, and it halves disk and memory.

    Raises:
        EdgeTransactError: The file isn't GGUF, is truncated, isn't a LLaMA or lacks a tensor, or the extra's package is
            missing.
    """
    reader = _open(file)
    import torch
    from gguf import GGMLQuantizationType
    from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

    exact = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) > 1]
    dtype = torch.float32 if any(tensor.tensor_type in exact for tensor in matrices) else torch.bfloat16

    location: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    stored = AutoConfig.from_pretrained(**location)
    config = stored.to_diff_dict()
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": str(dtype).removeprefix("torch.")}
    if scaling := _llama3_scaling(file, reader, config):
        config["rope_parameters"] |= scaling
    plan = WidthPlan.from_config(config)
    shapes = tensor_shapes(plan)
    write_shards(directory, shapes, ((name, tensor.to(dtype)) for name, tensor in _tensors(file, reader, plan)))
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    GenerationConfig.from_model_config(stored).save_pretrained(directory)
    # AutoTokenizer, which chooses this class for a LLaMA, would first read the configuration again.
    PreTrainedTokenizerFast.from_pretrained(**location).save_pretrained(directory)


def _tensors(file: Path, reader: GGUFReader, plan: WidthPlan) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in transformers' names and order, float32.

    llama.cpp's converter interleaves the halves of each head of q and k (``LlamaModel.permute`` in its
    ``convert_hf_to_gguf.py``).

    Raises:
        EdgeTransactError: A tensor is missing or has another shape.
    """
    import gguf
    import torch

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, len(plan.layers))
    for name, shape in tensor_shapes(plan).items():
        found = tensors.get(str(names.get_name(name, try_suffixes=(".weight", ".bias"))))
        if found is None or tuple(map(int, reversed(found.shape))) != shape:
            raise EdgeTransactError(f"{file} has no {name} of {list(shape)}", fix="Use a GGUF of a LLaMA model.")
        tensor = torch.tensor(gguf.dequantize(found.data, found.tensor_type)).reshape(shape)
        if "q_proj" in name or "k_proj" in name:
            pairs = tensor.reshape(-1, plan.head_dim // 2, 2, *shape[1:])
            tensor = pairs.transpose(1, 2).reshape(shape)
        yield name, tensor


def _open(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise EdgeTransactError(
            f"{file}: reading GGUF needs the package {error.name}", fix="pip install 'edge-transact[gguf]'"
        ) from error
    try:
        reader = GGUFReader(file)
        field = reader.get_field("general.architecture")
        architecture = field.contents() if field else None
    except (ValueError, IndexError, KeyError, AttributeError, OSError) as error:
        raise EdgeTransactError(
            f"{file} is not a GGUF file, or it is truncated: {error}", fix="Copy or download the file again."
        ) from error
    if architecture != "llama":
        raise EdgeTransactError(
            f"{file} is not a LLaMA: its architecture is {architecture!r}", fix="Use a GGUF of a LLaMA model."
        )
    return reader


def _llama3_scaling(file: Path, reader: GGUFReader, config: dict[str, Any]) -> dict[str, Any] | None:
    """Llama 3's RoPE scaling from ``rope_freqs.weight``: GGUF stores the divisors of the frequencies instead."""
    import numpy as np
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stored = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if stored is None:
        return None
    scaling = {
        "rope_type": "llama3",
        "factor": round(float(stored.max()), 3),
        "low_freq_factor": LLAMA3_LOW_FREQ_FACTOR,
        "high_freq_factor": LLAMA3_HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": LLAMA3_ORIGINAL_CONTEXT,
    }
    theta, dims = config["rope_parameters"]["rope_theta"], config["head_dim"]
    scaled = LlamaConfig(head_dim=dims, rope_parameters={**scaling, "rope_theta": theta})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled)
    divisors = theta ** (-torch.arange(0, dims, 2, dtype=torch.float32) / dims) / frequencies
    if not np.allclose(divisors.numpy(), stored, rtol=1e-3):
        raise EdgeTransactError(
            f"{file}: its RoPE frequencies (rope_freqs.weight) are not Llama 3's",
            fix="Use the Hugging Face checkpoint of this model.",
        )
    return scaling
