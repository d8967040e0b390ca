"""A Hugging Face tokenizer as GGUF's metadata.

llama.cpp has two kinds for LLaMAs. ``gpt2`` splits text by one of `SPLITS`, then merges bytes. ``llama`` merges
characters like SentencePiece, with bytes for text without a token, in the order of the tokens' scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}{some}{_LOWER}{others}$" for some, others in ("*+", "+*"))
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _WORDS.replace("$", "") + r"|\p{N}" + _REST
_GPT_4O = _WORDS.replace("$", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + _REST
SPLITS = {
    ("bytes",): "gpt-2",
    ("digits", "bytes"): "smollm",
    (_LLAMA3, "bytes"): "llama-bpe",
    (_QWEN2, "bytes"): "qwen2",
    (_TEKKEN, "bytes"): "tekken",  # Mistral Nemo's
    (_GPT_4O, "bytes"): "gpt-4o",  # Phi-4-mini's
}
"""GGUF's names (``tokenizer.ggml.pre``) of how models split text before merging (``llama-vocab.cpp``), by steps:
``digits``, one by one; a regular expression; ``bytes``, by GPT-2's expression if there is no other."""


def add_tokenizer(writer: GGUFWriter, directory: Path, vocab_size: int, pre: str | None) -> None:
    """Adds tokens, merges, special tokens and the chat template.

    Rows of the embedding without a token are named ``[PAD1]`` and so on. `pre` names the tokenizer's splits, instead of
    looking it up in `SPLITS`: an `EdgeTransactError` if GGUF has no name for it, or it has too many tokens.
    """
    import gguf

    from edge_transact.runtime.text import TextCodec

    tokenizer = TextCodec(directory).tokenizer
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    is_sentencepiece = bool(model.get("byte_fallback"))
    if model["type"] != "BPE" or not (is_sentencepiece or '"ByteLevel"' in json.dumps(spec["decoder"])):
        why = "it has nothing for bytes" if model["type"] == "BPE" else f"its model is {model['type']}, not BPE"
        raise EdgeTransactError(f"{directory}: GGUF can't hold this tokenizer: {why}", fix="Use the model in MLC-LLM.")
    name = pre or ("default" if is_sentencepiece else _splits(directory, spec))
    tokens, types = _tokens(directory, spec, vocab_size)
    writer.add_tokenizer_model("llama" if is_sentencepiece else "gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if is_sentencepiece:
        writer.add_token_scores(_scores(tokens, model))
        step = spec["pre_tokenizer"] or {"type": ""}
        prepends = step["type"] == "Metaspace" and step["prepend_scheme"] != "never"
        writer.add_add_space_prefix(prepends or "Prepend" in json.dumps(spec["normalizer"]))
    try:
        special = gguf.SpecialVocab(directory, load_merges=not is_sentencepiece, n_vocab=vocab_size)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise EdgeTransactError(f"{directory}: {error}", fix="Correct its special tokens in config.json.") from error
    if not (ids := tokenizer("a").input_ids):
        what = f"{directory}: its tokenizer makes no token of a letter"
        raise EdgeTransactError(what, fix="Copy the model's tokenizer files there.")
    special.add_special_token |= {"bos": ids[0] == tokenizer.bos_token_id, "eos": ids[-1] == tokenizer.eos_token_id}
    special.add_to_gguf(writer, quiet=True)


def _unnamed(directory: Path, why: str) -> EdgeTransactError:
    return EdgeTransactError(
        f"{directory}: GGUF has no name for this tokenizer: {why}",
        fix="Name llama.cpp's closest one with --pre, such as --pre llama-bpe.",
    )


def _splits(directory: Path, spec: Mapping[str, Any]) -> str:
    steps = _steps(spec["pre_tokenizer"])
    # llama.cpp doesn't compose characters, as Qwen's NFC does: nearly all text is composed.
    if spec["normalizer"] and spec["normalizer"]["type"] != "NFC":
        raise _unnamed(directory, f"it normalizes text with {spec['normalizer']['type']}")
    if steps not in SPLITS:
        raise _unnamed(directory, f"it splits text by {', then '.join(map(repr, steps)) or 'nothing'}")
    return SPLITS[steps]


def _steps(step: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A pre-tokenizer as a key of `SPLITS`; an unknown step is its JSON."""
    match step:
        case None:
            return ()
        case {"type": "Sequence", "pretokenizers": steps}:
            return tuple(name for each in steps for name in _steps(each))
        case {"type": "Digits", "individual_digits": True}:
            return ("digits",)
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return (pattern,)
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return ("bytes",)
        case _:
            return (json.dumps(step),)


def _tokens(directory: Path, spec: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Token texts and GGUF's token types by id."""
    from gguf import TokenType

    model, added = spec["model"], spec["added_tokens"]
    texts = {index: text for text, index in model["vocab"].items()}
    types = dict.fromkeys(texts, TokenType.NORMAL)
    if model.get("byte_fallback"):
        types |= {index: TokenType.BYTE for index, text in texts.items() if re.fullmatch(r"<0x[0-9A-F]{2}>", text)}
    for token in added:
        texts[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if model.get("byte_fallback") and (unknown := model["vocab"].get(model["unk_token"])) is not None:
        types[unknown] = TokenType.UNKNOWN
    if max(texts) >= vocab_size:
        raise EdgeTransactError(
            f"{directory}: the tokenizer has token {max(texts)}, but the model only {vocab_size} tokens",
            fix="Use the tokenizer that belongs to the model.",
        )
    names = [texts.get(index, f"[PAD{index}]") for index in range(vocab_size)]
    return names, [types.get(index, TokenType.UNUSED) for index in range(vocab_size)]


def _scores(tokens: list[str], model: Mapping[str, Any]) -> list[float]:
    """Scores that make llama.cpp merge in the tokenizer's order: minus the rank of each token's merge."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ")), rank)
    return [-float(ranks.get(token, 0)) for token in tokens]
