"""Text in, text out: the chat template around a prompt, and token ids as text while they come."""

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
        EdgeTransactError: The directory has no tokenizer, or one that needs a package that is missing.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if not (directory / "tokenizer.json").exists() and not (directory / "tokenizer.model").exists():
            raise EdgeTransactError(
                f"{directory} has no tokenizer.json", fix="Build it from a checkpoint that holds its tokenizer."
            )
        # A DIST holds no config.json that AutoTokenizer could look the class up in; a checkpoint may name a slow one.
        loader: Any = PreTrainedTokenizerFast
        if not (directory / "tokenizer.json").exists():
            _require_sentencepiece(directory)
            loader = AutoTokenizer
        self.tokenizer = loader.from_pretrained(directory)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was trained to chat; a base model continues text instead."""
        return self.tokenizer.chat_template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with BOS where the tokenizer adds one by default."""
        return list(self.tokenizer(text)["input_ids"])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ending where the assistant's answer begins."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> TokenStream:
        """A decoder that is fed one id at a time."""
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
    """Turns token ids into text as they come, holding back bytes of a character that isn't complete."""

    def __init__(self, codec: TextCodec) -> None:
        from tokenizers.decoders import DecodeStream

        self._decoder = DecodeStream(skip_special_tokens=True)
        self._tokenizer = codec.tokenizer.backend_tokenizer

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        return self._decoder.step(self._tokenizer, token_id) or ""
