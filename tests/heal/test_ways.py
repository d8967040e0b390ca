"""Ways to train a pruned model, side by side."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks import recovery_ways
from tests.support.pruning import TEXT


@pytest.mark.parametrize("way", recovery_ways.RATES)
def test_each_way_brings_the_model_nearer(
    way: str, pruned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(recovery_ways.RATES, way, 3e-3)
    (tmp_path / "text.txt").write_text(TEXT * 4)
    words = [str(pruned_model), way, "-o", str(tmp_path / "out"), "--train", str(tmp_path / "text.txt")]
    recovery_ways.main([*words, "--train-tokens", "4096"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["divergence"] < found["divergence_before"] and found["cpu_s"] > 0
    before, after = (load_file(path / "model.safetensors") for path in (pruned_model, tmp_path / "out"))
    changed = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert changed and (way != "norms" or all("norm" in name for name in changed))
