"""Small tokenizers of the kinds that LLaMAs have."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edge_transact.artifacts.digests import UNSEALED, seal, sha256
from edge_transact.artifacts.dist_files import MANIFEST

TEXT = (
    "It was the best of times, it was the worst of times; in 1859 don't we'll say: there were 3,504 of them.\n\n " * 4
)

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLITS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False},
            BYTES | {"use_regex": False},
        ],
    },
}
SPLITS["qwen2"] = json.loads(json.dumps(SPLITS["llama-bpe"]).replace("{1,3}", ""))
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
for name, pattern in (("tekken", TEKKEN), ("gpt-4o", GPT_4O)):
    SPLITS[name] = json.loads(json.dumps(SPLITS["llama-bpe"]))
    SPLITS[name]["pretokenizers"][0]["pattern"]["Regex"] = pattern
"""``pre_tokenizer`` of SmolLM2, Llama 3, GPT-2, Qwen2, Mistral Nemo and Phi-4-mini, by llama.cpp's names."""


def save_byte_level(directory: Path, vocab_size: int, pre: str = "gpt-2") -> None:
    """A byte-level BPE with three special tokens and a chat template."""
    _save(_byte_level(vocab_size, ["<|begin|>", "<|end|>", "<|pad|>"], pre), directory, "<|begin|>", "<|end|>")


def give_bytes(directory: Path) -> None:
    """Replaces the tokenizer of ``demo:tiny``, in a checkpoint or a DIST, by one that GGUF can hold."""
    file = directory / "tokenizer.json"
    _byte_level(400, ["<pad>", "<unk>", "<bos>", "<eos>"], "gpt-2").save(str(file))
    manifest = directory / MANIFEST
    if manifest.exists():
        content = json.loads(manifest.read_text())
        content["files"][file.name] = sha256(file)
        manifest.write_text(json.dumps(content | {"self_sha256": UNSEALED}, indent=2))
        seal(manifest)


def _byte_level(vocab_size: int, special: list[str], pre: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    spec = json.loads(tokenizer.to_str()) | {"pre_tokenizer": SPLITS[pre]}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def save_sentencepiece(directory: Path) -> int:
    """`save_merges` of a few words. Returns the number of tokens."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = SPACES
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=120, max_token_length=8, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    save_merges(directory, tokens, [tuple(merge) for merge in model["merges"]])
    return len(tokens)


SPACES = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def save_merges(directory: Path, tokens: list[str], merges: list[tuple[str, str]], chat_template: str = "") -> None:
    """Llama 2's and Mistral's kind: characters, a byte for what has no token, a space and BOS in front."""
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = SPACES
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    _save(tokenizer, directory, "<s>", "</s>", chat_template)


def _save(tokenizer: Any, directory: Path, bos: str, eos: str, chat_template: str = "") -> None:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    fast.chat_template = chat_template or "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(directory)
