"""Answers and perplexity by cut: measured once, kept, and drawn."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks import recovery_cuts
from edge_transact.evaluate import models
from edge_transact.evaluate.answers.questions import quick_questions
from tests.support.examples import small_model


@pytest.mark.slow
def test_rows_are_measured_once_and_drawn(tmp_path, monkeypatch, capsys):
    model, text = small_model(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 400)
    monkeypatch.setattr(recovery_cuts, "PRUNING", {"calibration": str(text), "calibration_tokens": 1024})
    monkeypatch.setattr(recovery_cuts, "TRAINING", {"train": str(text), "train_tokens": 1024, "quant": "q4f16_0"})
    monkeypatch.setattr(recovery_cuts, "WINDOWS", 1)
    monkeypatch.setattr(models, "questions", quick_questions)
    results = tmp_path / "rows.jsonl"
    command = ["--model", str(model), "-o", str(tmp_path / "models"), "--results", str(results), "--ratios"]
    command = ["--picture", str(tmp_path / "cuts.svg"), *command]
    recovery_cuts.main([*command, "0.2"])
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(row["stage"], row["ratio"]) for row in rows] == [("dense", 0), ("pruned", 0.2), ("trained, 4 bits", 0.2)]
    (evaluation,) = recovery_cuts.et.evaluate(tmp_path / "models/healed-0.2", max_windows=1, tasks=["basics"])
    assert rows[2]["perplexity"] == evaluation["perplexity"]
    assert rows[2]["right"] == sum(answer["right"] for answer in evaluation["answers"])
    monkeypatch.setattr(recovery_cuts.et, "evaluate", None)
    capsys.readouterr()
    recovery_cuts.main([*command, "0.2"])
    assert results.read_text().count("\n") == 3
    assert "| pruned by 20 % |" in capsys.readouterr().out
    words = " ".join(ElementTree.parse(tmp_path / "cuts.svg").getroot().itertext())
    assert "right answers of 12" in words and "perplexity" in words
