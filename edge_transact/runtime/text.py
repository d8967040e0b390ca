"""Text to token ids, with or without the chat template, and a stream of token ids to text."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError

Message = dict[str, str]
"""``{"role": "user" | "assistant", "content": text}``."""


class TextCodec:
    """A directory's tokenizer and chat template.

    Args:
        directory: A checkpoint or a DIST.

    Raises:
        EdgeTransactError: The directory has no tokenizer, or its tokenizer needs a package that is missing.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if not (directory / "tokenizer.json").exists() and not (directory / "tokenizer.model").exists():
            raise EdgeTransactError(
                f"{directory} has no tokenizer.json", fix="Build it from a checkpoint that holds its tokenizer."
            )
        # Not AutoTokenizer: a DIST has no config.json for it, and a checkpoint may name a slow tokenizer class.
        loader: Any = PreTrainedTokenizerFast
        if not (directory / "tokenizer.json").exists():
            _require_sentencepiece(directory)
            loader = AutoTokenizer
        self.tokenizer = loader.from_pretrained(directory)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was trained to chat. A base model continues text."""
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with BOS if the tokenizer adds it by default."""
        return list(self.tokenizer(text)["input_ids"])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to the beginning of the assistant's next answer."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> TokenStream:
        """A decoder that takes one id at a time."""
        return TokenStream(self)


def _require_sentencepiece(directory: Path) -> None:
    for module in ("sentencepiece", "google.protobuf"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EdgeTransactError(
                f"{directory} has a SentencePiece tokenizer and no tokenizer.json; reading it needs {module}",
                fix="python -m pip install 'edge-transact[sentencepiece]'",
            ) from error


class TokenStream:
    """Turns a stream of token ids into text, and holds back the bytes of an incomplete character."""

    def __init__(self, codec: TextCodec) -> None:
        from tokenizers.decoders import DecodeStream

        self._decoder = DecodeStream(skip_special_tokens=True)
        self._tokenizer = codec.tokenizer.backend_tokenizer

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty while its last character is incomplete."""
        return self._decoder.step(self._tokenizer, token_id) or ""
