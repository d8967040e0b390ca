"""Curves over training tokens, drawn from what training runs wrote."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.recovery_curves import main


def written(directory, rows):
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_runs_side_by_side(tmp_path):
    def rows(start):
        for tokens in range(0, 4000, 1000):
            yield {"tokens": tokens, "loss": 1.0}
            yield {"tokens": tokens, "perplexity": {"demo:sotu": start - tokens / 1000}, "tasks": {"basics": 0.5}}

    first, second = written(tmp_path / "best", rows(28.0)), written(tmp_path / "other", rows(39.0))
    main([str(first), f"transact={second / 'metrics.jsonl'}", "-o", str(tmp_path / "curves.svg")])
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    words = " ".join(root.itertext())
    assert "best goes from 28 to 25; transact goes from 39 to 36." in words
    assert "perplexity on demo:sotu" in words and "basics, accuracy" in words
    lines = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("d", "").count("L") == 3]
    assert len(lines) == 2 * 2
    text = (tmp_path / "curves.svg").read_text()
    assert 'fill="#ffffff"' in text[:2500] and "dark" not in text


@pytest.mark.parametrize(
    ("rows", "says"),
    [([{"tokens": 1, "loss": 2.0}], "--eval-every"), ([{"loss": 2.0}], "line 1"), (None, "does not exist")],
)
def test_what_cannot_be_drawn(rows, says, tmp_path, capsys):
    run = tmp_path / "run"
    if rows is not None:
        written(run, rows)
    with pytest.raises(SystemExit) as end:
        main([str(run), "-o", str(tmp_path / "curves.svg")])
    assert end.value.code == 1 and says in capsys.readouterr().err
    assert not (tmp_path / "curves.svg").exists()
