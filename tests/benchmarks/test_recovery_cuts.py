"""Answers and perplexity by cut: what is made of what, measured once, and drawn."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import recovery_cuts


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Commands in place of the real ones, which are tested on their own: they note what they make of what."""
    made: list[str] = []

    def maker(name):
        def make(source, output, **options):
            assert not output.exists()
            output.mkdir()
            made.append(f"{name} {Path(source).name} {output.name}")

        return make

    def evaluate(path, **options):
        made.append(f"eval {Path(path).name}")
        answers = [{"right": number < 7, "degenerate": "loop" if number > 6 else None} for number in range(12)]
        return [{"answers": answers, "degenerate": {"share": 0.25, "questions": 12}, "perplexity": 20.0 + len(made)}]

    for name in ("prune", "heal", "build"):
        monkeypatch.setattr(recovery_cuts.et, name, maker(name))
    monkeypatch.setattr(recovery_cuts.et, "evaluate", evaluate)
    return made


def test_rows_are_measured_once_and_drawn(made, tmp_path, capsys):
    results, picture = tmp_path / "rows.jsonl", tmp_path / "cuts.svg"
    command = ["-o", str(tmp_path / "models"), "--results", str(results), "--picture", str(picture)]
    recovery_cuts.main([*command, "--ratios", "0.2"])
    assert made == [
        "build demo:smollm2 built-0",
        "eval demo:smollm2",
        "eval built-0",
        "prune demo:smollm2 pruned-0.2",
        "heal pruned-0.2 once-0.2",
        "heal once-0.2 twice-0.2",
        "heal twice-0.2 trained-0.2",
        "heal once-0.2 rounded-0.2",
        "build rounded-0.2 built-0.2",
        "eval pruned-0.2",
        "eval trained-0.2",
        "eval built-0.2",
    ]
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert rows[2] == {
        "stage": "pruned",
        "ratio": 0.2,
        "right": 7,
        "degenerate": 3,
        "degenerate_of_all": 5,
        "questions": 12,
        "perplexity": 30.0,
    }
    capsys.readouterr()
    recovery_cuts.main([*command, "--ratios", "0.2"])
    assert len(made) == 12 and results.read_text().count("\n") == 5
    assert "| pruned by 20 % | 7 | 3 | 5 | 30.0 |\n| trained | 7 | 3 | 5 | 31.0 |" in capsys.readouterr().out
    recovery_cuts.main([*command, "--ratios", "0.1", "0.2"])
    assert made[12] == "prune demo:smollm2 pruned-0.1" and len(made) == 21
    words = " ".join(ElementTree.parse(picture).getroot().itertext())
    assert "right answers of 12" in words and "% of attention and MLP cut" in words
