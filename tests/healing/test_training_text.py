"""Training text: its order, what is held out, what counts in chats, memory, and what is refused."""

import itertools
import json
import re
import shutil
import tracemalloc

import pyarrow as arrow
import pytest
import torch
from pyarrow import parquet
from tokenizers import Tokenizer, processors

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.healing import text as stream
from edge_transact.healing.options import HealOptions
from edge_transact.healing.schedule import Schedule
from edge_transact.healing.text import Encoder, TrainingText
from edge_transact.inputs import pieces
from edge_transact.runtime.text import TextCodec
from tests.support.tokenizers import CHAT_TEMPLATE


@pytest.fixture(scope="module")
def chatting(tiny_model, tmp_path_factory) -> Checkpoint:
    """The tiny model with a chat template."""
    path = tmp_path_factory.mktemp("chatting") / "model"
    shutil.copytree(tiny_model, path)
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return Checkpoint.open(path)


@pytest.fixture
def texts(tmp_path) -> dict[str, str]:
    """Two long texts in which every sequence says where it is from."""
    found = {}
    for name in ("a", "b"):
        file = tmp_path / f"{name}.jsonl"
        rows = (json.dumps({"text": f"{name} {number} " * 8}) for number in range(400))
        file.write_text("\n".join(rows))
        found[name] = str(file)
    return found


def first(text: TrainingText, count: int, start: int = 0) -> list[list[int]]:
    return [sequence.ids.tolist() for sequence in itertools.islice(text.sequences(start), count)]


def chats(file, messages) -> str:
    file.write_text("\n".join([json.dumps({"messages": messages})] * 40))
    return str(file)


def counted(model, sequence) -> str:
    """The text that counts, without spaces."""
    decode = TextCodec(model).backend.decode
    return "".join(decode([token]) for token in sequence.ids[sequence.counted].tolist()).replace(" ", "")


def test_order_follows_the_seed_and_begins_anywhere(chatting, texts, monkeypatch):
    monkeypatch.setattr(stream, "BUFFER_TOKENS", 1024)
    given = [f"{texts['a']}=3", texts["b"]]
    one, same, other = (TrainingText(chatting, given, length=64, seed=seed) for seed in (0, 0, 1))
    assert one.to_dict() == same.to_dict() != other.to_dict()
    # More than an epoch.
    sequences = first(one, 900)
    assert sequences == first(same, 900) and sequences[:50] != first(other, 50)
    assert first(one, 5, start=895) == sequences[895:]
    decode = TextCodec(chatting.path).decode
    of_a = ["a" in decode(ids) for ids in sequences[:80]]
    assert sum(of_a) == 60 and all(sum(of_a[at : at + 4]) == 3 for at in range(0, 80, 4))
    assert torch.equal(one.held_out, other.held_out)


def test_what_is_held_out_is_never_trained_on(chatting, texts):
    text = TrainingText(chatting, [texts["a"]], length=64, seed=0)
    held_out = {tuple(ids) for ids in text.held_out.tolist()}
    trained_on = {tuple(ids) for ids in first(text, 1500)}
    assert 0 < len(held_out) <= stream.MOST_HELD_OUT
    assert not held_out & trained_on and len(trained_on) < 1500


LINES = [f"{number} " * 8 for number in range(1000, 1600)]


def pages(directory, size):
    for start in range(0, 600, size):
        lines = "".join(f"<p>{line}" for line in LINES[start : start + size])
        (directory / f"{start}.html").write_text(lines)


def rows(directory, size):
    texts = (json.dumps({"text": " ".join(LINES[start : start + size])}) for start in range(0, 600, size))
    (directory / "a.jsonl").write_text("\n".join(texts))


def row_groups(directory, size):
    parquet.write_table(arrow.table({"text": LINES}), directory / "a.parquet", row_group_size=size)


@pytest.mark.parametrize(
    ("write", "size"), [(pages, 600), (pages, 300), (rows, 60), (row_groups, 600), (row_groups, 300)]
)
@pytest.mark.parametrize("least_piece_bytes", [1 << 9, 1 << 14])
def test_all_is_read_however_a_text_is_stored(chatting, tmp_path, monkeypatch, write, size, least_piece_bytes):
    """Nearly all is trained on, the rest is held out, and it begins anywhere."""
    monkeypatch.setattr(pieces, "LEAST_PIECE_BYTES", least_piece_bytes)
    monkeypatch.setattr(stream, "BUFFER_TOKENS", 1024)
    write(tmp_path, size)
    text = TrainingText(chatting, [str(tmp_path)], length=64, seed=0)
    decode = TextCodec(chatting.path).decode

    def numbers(sequences: list[list[int]]) -> set[str]:
        return set(re.findall(r"\b1\d{3}\b", " ".join(map(decode, sequences))))

    trained_on, held_out = first(text, 800), text.held_out.tolist()
    assert not set(map(tuple, held_out)) & set(map(tuple, trained_on))
    assert len(numbers(trained_on)) > 600 * 7 / 8
    # The end of an epoch doesn't fill a sequence.
    assert len(numbers(trained_on + held_out)) >= 598
    assert first(text, 50, start=750) == trained_on[750:]


def test_only_the_end_of_a_document_ends_it(tiny_model, tmp_path):
    """Of a file in pieces; and only its beginning has the token that begins documents."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    begin, end = (tokenizer.token_to_id(token) for token in ("<bos>", "<eos>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", begin)])
    tokenizer.save(str(model / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("once upon a time\n" * 1000)
    encode = Encoder(Checkpoint.open(model))
    parts = [row for piece in pieces.pieces_of(str(tmp_path / "a.txt"), "calibration").pieces for row in piece.rows()]
    ids = [token for part in parts for token in encode(part).ids.tolist()]
    assert len(parts) > 3 and (ids[0], ids[-1]) == (begin, end)
    assert ids.count(begin) == ids.count(end) == 1


def test_answers_count_in_chats(chatting, tmp_path):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is the capital"},
        {"role": "assistant", "content": "it is far away"},
        {"role": "user", "content": "and the river"},
        {"role": "assistant", "content": "it is long"},
    ]
    text = TrainingText(chatting, [chats(tmp_path / "chats.jsonl", messages)], length=256, seed=0)
    sequence = next(text.sequences())
    found = counted(chatting.path, sequence)
    assert "itisfaraway[end]" in found and "itislong[end]" in found
    assert not any(word in found for word in ("capital", "brief", "river"))
    assert not sequence.counted[0]
    held_out = Schedule.of(HealOptions(train_window=256), 256).held_out(text)
    assert 0 < torch.stack([sequence.counted for sequence in held_out]).float().mean() < 1


SYSTEM_FIRST = (
    "{% if messages[0].role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no role ' + messages[0].role) }}{% endif %}"
    "{% if messages[0].role != 'system' %}[system]be helpful[end]{% endif %}"
) + CHAT_TEMPLATE
"""As of many models: it reads the first message, and writes a system prompt where there is none."""


def test_what_an_assistant_says_unasked_does_not_count(tiny_model, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    (path / "chat_template.jinja").write_text(SYSTEM_FIRST)
    messages = [
        {"role": "assistant", "content": "welcome to the city"},
        {"role": "user", "content": "and the river"},
        {"role": "assistant", "content": "it is long"},
    ]
    file = tmp_path / "chats.jsonl"
    text = TrainingText(Checkpoint.open(path), [chats(file, messages)], length=256, seed=0)
    found = counted(path, next(text.sequences()))
    assert "itislong[end]" in found
    assert not any(word in found for word in ("helpful", "welcome", "city", "river"))
    file.write_text('{"text": "a story"}\n' + json.dumps({"messages": [{"role": "gpt", "content": "hello"}]}))
    with pytest.raises(EdgeTransactError, match=r"chats\.jsonl, line 2: the model's chat template rejects .*role gpt"):
        TrainingText(Checkpoint.open(path), [str(file)], length=256, seed=0)


def test_memory_does_not_grow_with_the_text(chatting, tmp_path, monkeypatch):
    """Of 100 MB, with a buffer of 16,384 tokens."""
    monkeypatch.setattr(stream, "BUFFER_TOKENS", 1 << 14)
    block = "".join(f"line {number} of a long text\n" for number in range(40_000))
    with (tmp_path / "large.txt").open("w") as file:
        for _ in range(100_000_000 // len(block)):
            file.write(block)
    tracemalloc.start()
    text = TrainingText(chatting, [str(tmp_path / "large.txt")], length=128, seed=0)
    assert len(first(text, 400)) == 400 and len(text.held_out) == stream.MOST_HELD_OUT
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.to_dict()["sources"][0]["bytes"] > 90_000_000 and peak < 30_000_000


def test_short_texts(chatting, tmp_path):
    """One line is enough if it has two sequences: one is held out."""
    (tmp_path / "line.txt").write_text("once upon a time " * 40)
    text = TrainingText(chatting, [str(tmp_path / "line.txt")], length=64, seed=0)
    assert len(text.held_out) == 1 and text.held_out[0].tolist() not in first(text, 20)
    for content, message in (("once upon a time", "too few for a sequence of 64"), (" \n", "holds no text")):
        (tmp_path / "line.txt").write_text(content)
        with pytest.raises(EdgeTransactError, match=message):
            TrainingText(chatting, [str(tmp_path / "line.txt")], length=64, seed=0)
    messages = [{"role": "human", "content": "hello"}, {"role": "gpt", "content": "once upon a time"}]
    with pytest.raises(EdgeTransactError, match="none of which counts: its chats have no answers"):
        TrainingText(chatting, [chats(tmp_path / "chats.jsonl", messages)], length=64, seed=0)


def test_a_file_that_disappears_midway_is_named(chatting, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BUFFER_TOKENS", 64)
    sequences = TrainingText(chatting, [texts["a"]], length=64, seed=0).sequences()
    next(sequences)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(EdgeTransactError, match=r"a\.jsonl can't be read"):
        list(itertools.islice(sequences, 1000))
