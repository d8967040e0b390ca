"""The package from Python: silent unless it is asked, and the examples of docs/api.md run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import ROOT

PROGRAM = """
from pathlib import Path

from edge_transact.build.dist import build
from edge_transact.build.options import BuildOptions
from edge_transact.evaluate.models import evaluate_models
from edge_transact.prune import PruneOptions, prune

text = {"calibration": "text.txt", "calibration_tokens": 2048}
prune("demo:tiny", Path("pruned"), PruneOptions(ratio=0.3, method="transact", **text))
build("pruned", Path("dist"), BuildOptions(target=["host"]))
evaluate_models(["pruned", "dist"], text="text.txt", window=64, max_windows=1)
"""


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_python_caller_gets_no_output(tmp_path):
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times. " * 400)
    done = run(PROGRAM, tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_the_examples_of_the_page_run_and_log_their_steps(tmp_path):
    page = (ROOT / "docs" / "api.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == page.count("```python")
    done = run("\n".join(examples), tmp_path)
    for step in ("INFO:edge_transact.progress:score", "INFO:edge_transact.build.dist:compare with torch: host"):
        assert step in done.stderr
