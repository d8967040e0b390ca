"""Runs the examples of pages and help texts that measure phones, unchanged, on the stand-in phone."""

from pathlib import Path

import pytest

from edge_transact.benchmarking import session
from tests.support.bench_logs import repetitions
from tests.support.bench_runs import QUICK, copy_dist
from tests.support.examples import examples_with, run_line, split


@pytest.mark.slow
@pytest.mark.parametrize("line", examples_with("--device all"))
def test_examples_measure_the_phone(line, phone, runner, tiny_dist, tmp_path, monkeypatch):
    """With the tiny model and short lengths, because the phone is emulated."""
    original = session.bench_models
    short = {"lengths": QUICK.lengths, "repetitions": 1, "warmups": 0}

    def quickly(dists, options, **how):
        return original(dists, options.model_copy(update=short), **how)

    monkeypatch.setattr(session, "bench_models", quickly)
    monkeypatch.setenv("EDGE_BENCH_RUNNER", str(runner))
    monkeypatch.chdir(tmp_path)
    models = {word for word in split(line) if word in ("dist", "dense", "pruned")}
    for name in models:
        copy_dist(tiny_dist, Path(name))
    run_line(line)
    measured = repetitions(Path("edge-transact-bench.jsonl"))
    assert {row.model for row in measured} == models
    assert {row.serial for row in measured} == {phone.serial}
    for option, written in (("--report", "report/index.html"), ("--evidence", "pixel.zip")):
        assert Path(written).exists() == (option in line)
