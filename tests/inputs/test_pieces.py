"""Texts in pieces: together they are the text, once, whatever its lines are like; and what is refused."""

import json
import random

import pyarrow as arrow
import pytest
from pyarrow import parquet

from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs import pieces, rows
from edge_transact.inputs.rows import Chat
from edge_transact.inputs.shares import Share, dealt, share_of, shares_of
from edge_transact.inputs.texts import read_rows


def rows_of(text) -> list:
    return [row for piece in pieces.pieces_of(str(text), "calibration").pieces for row in piece.rows()]


@pytest.mark.parametrize("between", ["\n", " ", "", "é"])
def test_pieces_of_plain_text_join_to_the_text(tmp_path, monkeypatch, between):
    """Lines, a single line of words, and one without blanks; no character of several bytes is cut."""
    monkeypatch.setattr(pieces, "LEAST_PIECE_BYTES", 50)
    monkeypatch.setattr(pieces, "CUT_BYTES", 40)
    draw = random.Random(between)
    words = ("".join(draw.choices("abé€😀", k=draw.randrange(1, 20))) for _ in range(400))
    text = between.join(words)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = rows_of(tmp_path / "a.txt")
    assert "".join(part.text for part in found) == text and len(found) > 20
    assert [part.begins for part in found] == [True] + [False] * (len(found) - 1)
    assert [part.ends for part in found] == [False] * (len(found) - 1) + [True]
    (tmp_path / "short.txt").write_text("a whole document", encoding="utf-8")
    assert rows_of(tmp_path / "short.txt") == ["a whole document"]


def test_pieces_hold_every_row_once(tmp_path, monkeypatch):
    """JSON lines are cut at any byte, Parquet at any row; the order is that of the files."""
    monkeypatch.setattr(pieces, "LEAST_PIECE_BYTES", 30)
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    lines = [json.dumps({"text": "x" * (number % 90), "n": number}) for number in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:100], json.dumps({"messages": chat}), "", *lines[100:]]))
    table = arrow.table({"messages": [chat, None, [*chat, *chat]]})
    parquet.write_table(table, tmp_path / "b.parquet", row_group_size=1)
    texts = [None if number % 7 == 0 else f"row {number}" for number in range(1000)]
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=700)
    assert len(pieces.pieces_of(str(tmp_path / "a.jsonl"), "calibration").pieces) > 50
    assert 100 < len(pieces.pieces_of(str(tmp_path / "a.parquet"), "calibration").pieces) <= 2 * pieces.PIECES
    assert rows_of(tmp_path) == read_rows(str(tmp_path), "calibration")
    assert rows_of(tmp_path)[-2:] == [Chat((("user", "2 + 2?"), ("assistant", "4")) * times, "") for times in (1, 2)]


@pytest.mark.parametrize("between", [" ", ""])
def test_a_row_longer_than_a_piece_is_read_in_parts(tmp_path, monkeypatch, between):
    """Or what it needs in tokens would grow with it; a line that is too long to be read at once is refused."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 200)
    monkeypatch.setattr(pieces, "CUT_BYTES", 40)
    document = between.join(f"word{number}é" for number in range(100))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": document}) + '\n{"text": "short"}\n')
    parquet.write_table(arrow.table({"text": [document]}), tmp_path / "b.parquet")
    (tmp_path / "c.html").write_text(f"<p>{document}</p>")
    for name, others in (("a.jsonl", ["short"]), ("b.parquet", []), ("c.html", [])):
        found = rows_of(tmp_path / name)
        parts = found[: len(found) - len(others)]
        assert "".join(part.text for part in parts) == document and found[len(parts) :] == others
        assert len(parts) > 3 and max(len(part.text) for part in parts) <= 240
        assert [part.begins for part in parts] == [True] + [False] * (len(parts) - 1)
        assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]
        assert not between or all(part.text.endswith(" ") for part in parts[:-1])
    for module in (pieces, rows):
        monkeypatch.setattr(module, "MOST_IN_LINE", 500)
    for read in (rows_of, lambda file: read_rows(str(file), "calibration")):
        with pytest.raises(EdgeTransactError, match=r"a\.jsonl, line 1 has 500 bytes or more"):
            read(tmp_path / "a.jsonl")


def test_what_goes_wrong_midway_is_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "first"}\n{"other": 3}\n')
    with pytest.raises(EdgeTransactError, match=r"a\.jsonl, line 2 has no column 'text'"):
        rows_of(file)
    file.write_text('{"text": "first"}\n{"messages": "hello"}\n')
    with pytest.raises(EdgeTransactError, match="line 2: messages are not a list of objects"):
        rows_of(file)
    messages = [[{"role": "user", "content": "hello"}]] * 299 + [[{"role": "user", "content": None}]]
    parquet.write_table(arrow.table({"messages": messages}), tmp_path / "a.parquet")
    with pytest.raises(EdgeTransactError, match=r"a\.parquet, row group 0, row 299: messages are not a list"):
        rows_of(tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("once upon a time\n" * 1000)
    found = pieces.pieces_of(str(tmp_path / "b.txt"), "calibration")
    assert next(found.pieces[0].rows())
    (tmp_path / "b.txt").write_text("shorter")
    with pytest.raises(EdgeTransactError, match=r"b\.txt has changed while it was read: 7 bytes, 17000 before"):
        list(found.pieces[1].rows())
    (tmp_path / "b.txt").unlink()
    with pytest.raises(EdgeTransactError, match=r"b\.txt can't be read"):
        list(found.pieces[1].rows())
    file.write_text("")
    with pytest.raises(EdgeTransactError, match="holds no text"):
        pieces.pieces_of(str(file), "calibration")


def test_weights_of_texts(tmp_path):
    assert share_of("demo:sotu=3") == Share("demo:sotu", 3.0) and share_of("a.txt=0.5") == Share("a.txt", 0.5)
    assert share_of("demo:sotu") == Share("demo:sotu") and share_of("a=b") == Share("a=b")
    (tmp_path / "x=2").write_text("a file")
    assert share_of(f"{tmp_path}/x=2") == Share(f"{tmp_path}/x=2")
    with pytest.raises(UsageError, match="the weight 0 is not above 0"):
        share_of("a.txt=0")
    assert sum(share.weight for share in shares_of(["demo:mixed=2", "a.txt"])) == pytest.approx(3)
    assert len(shares_of("demo:mixed")) == 4
    chats = {share.text: share.weight for share in shares_of("demo:mixed=5", for_chats=True)}
    assert chats == pytest.approx(dict.fromkeys(chats, 1) | {"demo:chats": 2})
    # Three to one; the second text has only two, and the others get the rest.
    assert dealt([100, 100], [3, 1], 8) == [6, 2] and dealt([100, 2, 100], [1, 1, 2], 10) == [3, 2, 5]


def test_demo_texts_keep_what_is_measured_on_apart():
    for text in ("demo:docs", "demo:code", "demo:chats"):
        calibration, evaluation = (read_rows(text, purpose) for purpose in ("calibration", "evaluation"))
        assert not set(calibration) & set(evaluation) and len(calibration) > 3 * len(evaluation) > 0
    assert all(isinstance(row, Chat) for row in evaluation)


def test_a_dictionary_of_one_long_text_is_not_expanded_at_once(tmp_path):
    long = arrow.DictionaryArray.from_arrays(arrow.array([0] * 300, arrow.int32()), arrow.array(["x" * 4_000_000]))
    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": long}), file, dictionary_pagesize_limit=1 << 28, store_schema=False)
    assert file.stat().st_size < 1_000_000
    before = arrow.total_allocated_bytes()
    read = rows.read_parquet(file)
    assert len(next(read)) == 4_000_000
    assert arrow.total_allocated_bytes() - before < 200_000_000
