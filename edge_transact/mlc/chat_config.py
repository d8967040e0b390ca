"""``mlc-chat-config.json``: the configuration of a model for MLC-LLM's engine and apps, its `MLCChatConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, PositiveInt

from edge_transact.architecture.families import family_of, translated
from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.mlc.conversation import conversation_template
from edge_transact.reading import read_model, read_object
from edge_transact.runtime.text import read_tokenizer

CHAT_CONFIG_VERSION = "0.1.0"

_SAMPLING_DEFAULTS = {
    "temperature": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "top_p": 1.0,
}


def chat_config(
    checkpoint: Path,
    *,
    model_type: str,
    model_lib: str,
    quantization: str,
    model_config: Mapping[str, object],
    vocab_size: int,
    context_window_size: int,
    prefill_chunk_size: int,
) -> dict[str, object]:
    """The contents of ``mlc-chat-config.json``; sizes are in tokens, and `model_type` is the definition's.

    A checkpoint's tokenizer, ``generation_config.json`` and ``config.json`` give special tokens, sampling defaults and
    the conversation template.
    """
    config = read_object(checkpoint / "config.json", optional=True)
    generation = {**config, **read_object(checkpoint / "generation_config.json", optional=True)}
    tokenizer, eos = read_tokenizer(checkpoint), generation.get("eos_token_id", 2)
    eos_ids = [token for token in (eos if isinstance(eos, list) else [eos]) if token is not None]
    return {
        "version": CHAT_CONFIG_VERSION,
        "model_type": model_type,
        "model_lib": model_lib,
        "quantization": quantization,
        "model_config": dict(model_config),
        "vocab_size": vocab_size,
        # There may be more logits than tokens, as padding.
        "active_vocab_size": min(vocab_size, tokenizer.get_vocab_size()) if tokenizer else vocab_size,
        "context_window_size": context_window_size,
        "sliding_window_size": -1,
        "prefill_chunk_size": prefill_chunk_size,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        **{key: _number(generation.get(key), default) for key, default in _SAMPLING_DEFAULTS.items()},
        "tokenizer_files": [name for name in TOKENIZER_FILES if (checkpoint / name).is_file()],
        "tokenizer_info": tokenizer_info(checkpoint),
        "conv_template": conversation_template(checkpoint, eos_ids, family_of(translated(config)).ends),
        "pad_token_id": _number(generation.get("pad_token_id"), 0),
        "bos_token_id": _number(generation.get("bos_token_id"), 1),
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids,
        "model_task": "chat",
    }


def check_chat_config(path: Path) -> None:
    """Raises an `EdgeTransactError` if a file, which people may edit, isn't what MLC's engine can begin with."""
    read_model(_ForEngines, path, "Correct it, or build the model again.")


class _ForEngines(BaseModel):
    """The fields of ``MLCChatConfig`` that have no default, and what names other files."""

    model_type: str
    quantization: str
    of_model: dict[str, object] = Field(alias="model_config")
    vocab_size: PositiveInt
    context_window_size: PositiveInt
    prefill_chunk_size: PositiveInt
    tokenizer_files: list[str]
    conv_template: str | dict[str, object]


def _number(value: object, default: float) -> object:
    return default if value is None else value


def tokenizer_info(checkpoint: Path) -> dict[str, str | bool]:
    """MLC's ``TokenizerInfo`` (``mlc_llm/tokenizers``), from the decoder and normalizer in ``tokenizer.json``.

    A directory without ``tokenizer.json`` has a SentencePiece model with byte fallback.
    """
    tokenizer = read_object(checkpoint / "tokenizer.json", optional=True)
    decoders = _steps(tokenizer.get("decoder"), "decoders")
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    byte_level = any(step.get("type") == "ByteLevel" for step in decoders)
    prepend, strip = {"type": "Prepend", "prepend": "\u2581"}, {"type": "Strip", "content": " ", "start": 1}
    return {
        "token_postproc_method": "byte_level" if byte_level else "byte_fallback",
        "prepend_space_in_encode": any(prepend.items() <= step.items() for step in normalizers),
        "strip_space_in_decode": any(strip.items() <= step.items() for step in decoders),
    }


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if not part:
        return []
    return list(part[key]) if part.get("type") == "Sequence" else [part]
