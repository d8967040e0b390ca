"""Text as `run` reads it: the same ids and the same prompts as transformers makes, without importing it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_transact.errors import EdgeTransactError
from edge_transact.runtime.text import TextCodec, TokenStream, split_reasoning
from tests.support.patience import HANG_S
from tests.support.tokenizers import save_byte_level, save_sentencepiece

TEMPLATES = {path.stem: path.read_text() for path in (Path(__file__).parents[1] / "data/chat_templates").iterdir()}

TEXTS = st.text(max_size=30) | st.sampled_from(
    ["", " the  best\n", "<s> times </s>", "<|end|>", "1859 'll", "é😀\u2581"]
)
CONVERSATIONS = st.tuples(st.none() | TEXTS, st.lists(TEXTS, min_size=1, max_size=4).filter(lambda said: len(said) % 2))


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def directory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte-level":
        save_byte_level(path, 320, "llama-bpe")
    else:
        save_sentencepiece(path)
    (path / "chat_template.jinja").unlink()
    return path


def configure(directory, path, **changed):
    """The tokenizer with other entries in its ``tokenizer_config.json``; `None` removes one."""
    path.mkdir()
    (path / "tokenizer.json").symlink_to(directory / "tokenizer.json")
    config = json.loads((directory / "tokenizer_config.json").read_text()) | changed
    config = {name: value for name, value in config.items() if value is not None}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def conversation(system, said):
    roles = ("user", "assistant") * len(said)
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_the_one_of_transformers(directory, tmp_path, name):
    codec = TextCodec(configure(directory, tmp_path / "tokenizer", chat_template=TEMPLATES[name]))
    tokenizer = codec.tokenizer

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(CONVERSATIONS)
    def same(spoken):
        messages = conversation(*spoken)
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert codec.encode_chat(messages) == expected

    same()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"add_bos_token": True, "add_eos_token": True},  # which the file decides
        {"eos_token": {"__type": "AddedToken", "content": "<|end|>"}},
        {"pad_token": "<|padding|>"},
        {"extra_special_tokens": ["<|more|>"]},
        {"split_special_tokens": True},
    ],
    ids=str,
)
def test_ids_and_text_are_those_of_transformers(directory, tmp_path, changed):
    codec = TextCodec(configure(directory, tmp_path / "tokenizer", **changed))

    @settings(max_examples=20)
    @given(TEXTS | st.just("<|more|> and <|padding|>"))
    def same(text):
        ids = codec.encode(text)
        assert ids == codec.tokenizer(text)["input_ids"]
        assert codec.decode(ids) == codec.tokenizer.decode(ids, skip_special_tokens=True)

    same()


def test_a_streamed_text_is_the_whole_one(directory):
    codec = TextCodec(directory)

    @settings(max_examples=50)
    @given(TEXTS)
    def same(text):
        ids = codec.encode(text)
        assert "".join(map(TokenStream(codec).push, ids)) == codec.decode(ids)

    same()


def test_a_stream_goes_on_after_bytes_that_are_not_utf_8(tmp_path):
    """A newline is a byte too: the whole text has none where an incomplete character follows, but it was given out."""
    save_sentencepiece(tmp_path)
    codec = TextCodec(tmp_path)

    @settings(max_examples=200)
    @given(st.lists(st.sampled_from(["t", "▁t", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "<0xE2>"])))
    def all_words(names):
        names.append("t")
        push = TokenStream(codec).push
        text = "".join(push(codec.backend.token_to_id(name)) for name in names)
        words = "".join(name.replace("▁", " ") for name in names if not name.startswith("<"))
        assert text.translate(dict.fromkeys(map(ord, "\n\ufffdé\u2a69"))).lstrip() == words.lstrip()

    all_words()


def test_truncation_and_padding_in_the_file_are_not_applied(directory, tmp_path):
    path = configure(directory, tmp_path / "tokenizer")
    content = json.loads((directory / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (path / "tokenizer.json").unlink()
    (path / "tokenizer.json").write_text(json.dumps(content))
    codec = TextCodec(path)
    ids = codec.encode("the best of times")
    assert len(ids) > 3 and ids == codec.tokenizer("the best of times")["input_ids"]


def test_of_several_templates_the_default_one_counts(directory, tmp_path):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATES["llama-2"]}]
    codec = TextCodec(configure(directory, tmp_path / "several", chat_template=named))
    messages = conversation("Short.", ["the times"])
    expected = codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert codec.encode_chat(messages) == expected
    assert not TextCodec(configure(directory, tmp_path / "none")).has_chat_template


@pytest.mark.parametrize(
    ("template", "says"),
    [(TEMPLATES["llama-2"], "must alternate"), ("{{ messages[", "unexpected"), ("{{ ''.__class__.mro() }}", "unsafe")],
)
def test_a_template_that_refuses_says_so(directory, tmp_path, template, says):
    codec = TextCodec(configure(directory, tmp_path / "tokenizer", chat_template=template))
    with pytest.raises(EdgeTransactError, match=says):
        codec.encode_chat([{"role": "assistant", "content": "I begin"}])


def test_neither_transformers_nor_torch_is_imported(directory, tmp_path):
    path = configure(directory, tmp_path / "tokenizer", chat_template=TEMPLATES["smollm2"], add_bos_token=True)
    program = f"""
import sys
from pathlib import Path
sys.argv[0] = "edge-transact"
from edge_transact.runtime.text import TextCodec, TokenStream, split_reasoning
codec = TextCodec(Path({str(path)!r}))
codec.encode_chat([{{"role": "user", "content": "Hi"}}]), codec.decode(codec.encode("the times"))
print([name for name in ("transformers", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == "[]"


def test_reasoning_is_not_the_answer():
    assert split_reasoning("Paris.") == ("", "Paris.")
    assert split_reasoning("<think>\nFrance?\n</think>\n\nParis.") == ("France?", "Paris.")
    assert split_reasoning("<think>\n\n</think>\n\nParis.") == ("", "Paris.")
    assert split_reasoning("<think>\nFrance") == ("France", "")
    assert split_reasoning("Write </think> or <think>.") == ("", "Write </think> or <think>.")


def test_thinking_is_the_templates_variable(directory, tmp_path):
    codec = TextCodec(configure(directory, tmp_path / "tokenizer", chat_template=TEMPLATES["smollm3"]))
    messages = conversation(None, ["Hello"])
    for thinking in (None, True, False):
        variables = {} if thinking is None else {"enable_thinking": thinking}
        expected = codec.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False, **variables
        )
        assert codec.encode_chat(messages, thinking) == expected
    assert codec.encode_chat(messages) == codec.encode_chat(messages, True) != expected


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", b"", "is not a tokenizer: EOF"),
        ("tokenizer.json", b"[]", "is not a tokenizer"),
        ("tokenizer.json", b"{}", "is not a tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "is not a tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 4294967296}}}', "is not a tokenizer"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}', "is not a tokenizer"),
        ("tokenizer.json", b"[" * 100_000, "is not a tokenizer"),
        ("tokenizer.json", "{}".encode("utf-16"), "is not a tokenizer"),
        ("tokenizer.json", b"\xef\xbb\xbf{}", "is not a tokenizer"),
        ("tokenizer_config.json", b"", "is not JSON: EOF"),
        ("tokenizer_config.json", b"[]", "is not a JSON object"),
        ("tokenizer_config.json", b"{" * 100_000, "is not JSON"),
        ("tokenizer_config.json", b"\xef\xbb\xbf{}", "is not plain UTF-8: a byte order mark"),
        ("tokenizer_config.json", "{}".encode("utf-16"), "is not plain UTF-8: it is UTF-16"),
        ("tokenizer_config.json", b'{"bos_token": {"a": 1}}', "cannot be read .bos_token"),
        ("tokenizer_config.json", b'{"bos_token": 3}', "cannot be read .bos_token"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "cannot be read .chat_template"),
        ("tokenizer_config.json", b'{"additional_special_tokens": [5]}', "cannot be read .additional_special_tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": ["a"]}', "cannot be read .added_tokens_decoder"),
        ("special_tokens_map.json", b"[]", "is not a JSON object"),
        ("added_tokens.json", b"5", "is not a JSON object"),
    ],
)
def test_a_broken_file_is_named(directory, tmp_path, name, content, problem):
    configure(directory, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer_config.json").write_text("{}")
    (tmp_path / "broken" / name).unlink(missing_ok=True)
    (tmp_path / "broken" / name).write_bytes(content)
    with pytest.raises(EdgeTransactError, match=f"{name} {problem}"):
        TextCodec(tmp_path / "broken")
