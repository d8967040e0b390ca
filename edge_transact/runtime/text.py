"""Text to token ids, with or without the chat template, and a stream of token ids to text."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from edge_transact.errors import EdgeTransactError
from edge_transact.reading import AGAIN, checked, opened, read_object, read_text
from edge_transact.runtime.chat_template import Message, default_template, render_chat, require_template

if TYPE_CHECKING:
    import tokenizers

THINK, END_OF_THINKING = "<think>", "</think>"
"""What models that reason, such as Qwen3, write around it, before their answer."""

MOST_IDS = 1 << 22

TOKENIZER, SENTENCEPIECE, CONFIG = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"


class TextCodec:
    """The tokenizer and chat template of a checkpoint or a DIST; an `EdgeTransactError` if it has none that loads.

    Uses tokenizers and jinja2 alone wherever they give the same as transformers, whose import takes seconds. `read` is
    the ``tokenizer.json``, if that has been read before.
    """

    def __init__(self, directory: Path, read: tokenizers.Tokenizer | None = None) -> None:
        self.directory = directory
        if not (directory / TOKENIZER).exists():
            if not (directory / SENTENCEPIECE).exists():
                raise EdgeTransactError(
                    f"{directory} has no {TOKENIZER}", fix="Build it from a checkpoint that holds its tokenizer."
                )
            _require_sentencepiece(directory)
        self._config = _configuration(directory)
        plain = self._plain(read or read_tokenizer(directory))
        self.backend: tokenizers.Tokenizer = plain or self.tokenizer.backend_tokenizer
        if plain is None:
            self._config |= self.tokenizer.special_tokens_map | {"chat_template": self.tokenizer.chat_template}

    def _plain(self, tokenizer: tokenizers.Tokenizer | None) -> tokenizers.Tokenizer | None:
        """``tokenizer.json`` set up as by transformers; `None` if transformers would add more to it."""
        if tokenizer is None:
            return None
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        if not known.issuperset(_tokens(self._config)) or self._config.get("split_special_tokens"):
            return None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def tokenizer(self) -> Any:
        from edge_transact.checkpoint.auto_classes import register

        register()
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        # Not AutoTokenizer: a DIST has no config.json for it, and a checkpoint may name a slow tokenizer class.
        fast = (self.directory / TOKENIZER).exists()
        return load(PreTrainedTokenizerFast if fast else AutoTokenizer, self.directory)

    @cached_property
    def special_tokens(self) -> Mapping[str, str]:
        """``bos_token``, ``eos_token``, ... as text."""
        named = ((name, value) for name, value in self._config.items() if name.endswith("_token"))
        return {name: _text(value) for name, value in named if isinstance(value, (str, dict))}

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template; `None` for a base model, which continues text."""
        file = self.directory / "chat_template.jinja"
        template = read_text(file) if file.is_file() else self._config.get("chat_template")
        return default_template(template)

    @property
    def has_chat_template(self) -> bool:
        return self.chat_template is not None

    def check_chats(self) -> None:
        """Raises the errors of a chat template that doesn't work."""
        if self.chat_template is not None:
            require_template(self.chat_template, self.special_tokens)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with BOS if the tokenizer adds it by default."""
        return self.backend.encode(text).ids

    def encode_chat(self, messages: Sequence[Message], thinking: bool | None = None) -> list[int]:
        """Token ids of a conversation, up to the assistant's next answer. See `render_chat` for `thinking`."""
        text = render_chat(self.chat_template or "", messages, self.special_tokens, thinking=thinking)
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)


def load(loader: Any, directory: Path) -> Any:
    """A tokenizer as a class of transformers loads it; an `EdgeTransactError` if that fails."""
    tokenizer = read_tokenizer(directory)
    if tokenizer and (largest := max(tokenizer.get_vocab().values(), default=0)) > MOST_IDS:
        what = f"{directory / TOKENIZER} has a token {largest}, for which libraries fill memory"
        raise EdgeTransactError(what, fix=AGAIN)
    try:
        loaded = loader.from_pretrained(directory)
        loaded("a")  # it may load and fail then
        return loaded
    except Exception as error:  # of transformers, tokenizers and sentencepiece
        _configuration(directory)
        raise EdgeTransactError(
            f"{directory} has no tokenizer that loads: {error}", fix="Copy the model's tokenizer files there."
        ) from error


def check_chats(directory: Path) -> None:
    """Raises the errors of a chat template that doesn't work; what needs a tokenizer says whether there is one."""
    try:
        codec = TextCodec(directory)
    except EdgeTransactError:
        return
    codec.check_chats()


def split_reasoning(text: str) -> tuple[str, str]:
    """The reasoning in what a model said, without its tags, and the answer after it."""
    if not text.lstrip().startswith(THINK):
        return "", text
    reasoning, _, answer = text.partition(END_OF_THINKING)
    return reasoning.replace(THINK, "", 1).strip(), answer.lstrip("\n")


def read_tokenizer(directory: Path) -> tokenizers.Tokenizer | None:
    """``tokenizer.json``; `None` if there is none. Doesn't hold Python's lock."""
    if not (directory / TOKENIZER).exists():
        return None
    from tokenizers import Tokenizer

    opened(directory / TOKENIZER).close()
    try:
        return Tokenizer.from_file(str(directory / TOKENIZER))
    except Exception as error:  # tokenizers raises nothing narrower
        raise EdgeTransactError(f"{directory / TOKENIZER} is not a tokenizer: {error}", fix=AGAIN) from error


def _configuration(directory: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, with the additions of older files beside it, as in transformers."""

    def read(name: str) -> dict[str, Any]:
        return read_object(directory / name, optional=True)

    config = read(CONFIG)
    if "added_tokens_decoder" not in config:
        config |= read("special_tokens_map.json")
        config["added_tokens"] = list(read("added_tokens.json"))
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    checked(dict[str, str | bool | _Token | None], tokens, directory / CONFIG)
    checked(_Configuration, config, directory / CONFIG)
    return config


class _Token(BaseModel):
    content: str


class _Configuration(BaseModel):
    """The fields of ``tokenizer_config.json`` that are read, apart from the names of tokens."""

    chat_template: str | list[dict[str, str]] | None = None
    additional_special_tokens: list[str | _Token] | None = None
    extra_special_tokens: list[str | _Token] | dict[str, str | _Token] | None = None
    added_tokens_decoder: dict[str, _Token] | None = None


def _tokens(config: Mapping[str, Any]) -> Iterator[str]:
    """The tokens that a configuration names; transformers adds those that ``tokenizer.json`` lacks."""
    for name, value in config.items():
        if name.endswith("_token") and isinstance(value, (str, dict)):
            yield _text(value)
        elif name in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "added_tokens"):
            yield from map(_text, value.values() if isinstance(value, dict) else value or ())


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


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
    """Converts a stream of token ids to text, and holds back incomplete characters."""

    def __init__(self, codec: TextCodec) -> None:
        self._tokenizer = codec.backend
        self._held: list[int] = []
        self._restart()

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        self._held.append(token_id)
        try:
            text = self._step(token_id)
        except Exception:
            # Bytes that aren't UTF-8 changed the text of the bytes before them.
            self._restart()
            text = "".join(map(self._step, self._held))
        if text:
            self._held.clear()
        return text

    def _restart(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._decoder = DecodeStream(skip_special_tokens=True)

    def _step(self, token_id: int) -> str:
        return self._decoder.step(self._tokenizer, token_id) or ""
