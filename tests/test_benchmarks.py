"""The programs of ``benchmarks/`` start, and draw what needs no measuring. Nothing asserts their figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
IMPORT_ALL = """
import importlib, pkgutil, benchmarks
for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."):
    importlib.import_module(module.name)
"""


def run(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
def test_programs_start():
    run("-c", IMPORT_ALL)
    assert "llama_cpp: SmolLM2" in " ".join(run("-m", "benchmarks", "--help").split())


@pytest.mark.soak
def test_pictures_are_those_of_the_pages(tmp_path):
    run("-m", "benchmarks.pictures", "-o", tmp_path)
    for picture in ("widths.svg", "sensitivity-curves.svg"):
        assert (tmp_path / picture).read_text() == (BENCHMARKS.parent / "docs" / picture).read_text()


def test_chosen_widths_are_points_of_the_curves():
    """Dots lie on the lines: the allocation moves along these very points."""
    measured = json.loads((BENCHMARKS / "results" / "sensitivity-curves.json").read_text())
    for layer, curves in zip(measured["pruned"], measured["curves"], strict=True):
        assert layer["intermediate_size"] in [units for units, _ in curves["mlp"]]
        assert layer["v_head_dim"] in [units for units, _ in curves["values"]]
        assert all(loss >= 0 for _, loss in curves["mlp"])
