"""A tiny model whose tokens are bytes of a prompt and, in answers, often halves of characters."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from edge_transact.artifacts.dist_files import CHAT_CONFIG, SHARDS, TENSOR_CACHE

VOCAB_SIZE = 1024
BYTES = 768
"""The first of 256 tokens that are bytes."""
STOP_IDS = [token for token in range(BYTES) if token % 16 == 11]
"""Tokens that end an answer, so that some answers are short."""

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
TEMPLATE_TOKENS = len("u:\na:")
"""Of a prompt of one message, besides its text."""


def byte_model(dist: Path, directory: Path, stop_ids: Sequence[int] = STOP_IDS) -> Path:
    """The weights of a DIST of ``demo:tiny`` with another tokenizer, as a directory for MLC's engine.

    Text is encoded as tokens that are bytes, so it has as many tokens as UTF-8 bytes. Of the others, one in three ends
    with the first half of an emoji and one in three begins with the second. Sampling is greedy.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()

    def text(token: int) -> str:
        head, tail = "😀".encode()[:2], "😀".encode()[2:]
        number = b"%d" % token
        word = bytes([token - BYTES]) if token >= BYTES else (number + head, tail + number, b" " + number)[token % 3]
        return "".join(letters[byte] for byte in word)

    directory.mkdir()
    for path in (dist / TENSOR_CACHE, *dist.glob(SHARDS)):
        shutil.copy(path, directory)
    tokenizer = Tokenizer(models.BPE({text(token): token for token in range(VOCAB_SIZE)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    config = json.loads((dist / CHAT_CONFIG).read_text())
    config["temperature"] = 0.0
    config["conv_template"] |= {"roles": {"user": "u", "assistant": "a", "tool": "t"}, "seps": ["\n"]}
    config["conv_template"] |= {"role_content_sep": ":", "role_empty_sep": ":", "stop_token_ids": list(stop_ids)}
    (directory / CHAT_CONFIG).write_text(json.dumps(config))
    return directory
