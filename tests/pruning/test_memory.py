"""Tensors that are too large for memory are kept in files, and the results don't change."""

import errno
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from edge_transact import costs
from edge_transact.cache import journal
from edge_transact.cache.journal import DTYPES, Journal, release
from edge_transact.checkpoint import Checkpoint
from edge_transact.costs.memory import PACKAGES_BYTES
from edge_transact.errors import EdgeTransactError
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.requirements import pruned_plan, requirements
from edge_transact.pruning.run import decided, prune
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.pruning import weights_of


@pytest.mark.parametrize("method", ["obs", "transact"])
def test_the_same_bytes_from_files(tiny_model, tmp_path: Path, monkeypatch, chapters, method: str) -> None:
    options = PruneOptions(
        ratio=0.4, method=method, compensate=True, calibration=str(chapters), calibration_tokens=2048
    )
    prune(str(tiny_model), tmp_path / "in-memory", options)
    monkeypatch.setattr(journal, "MEMORY_BYTES", 0)
    prune(str(tiny_model), tmp_path / "in-files", options)
    assert weights_of(tmp_path / "in-files") == weights_of(tmp_path / "in-memory")
    assert {path.name for path in tmp_path.iterdir()} == {"in-memory", "in-files"}


@pytest.mark.parametrize("bound", [0, 1 << 30])
def test_a_group_is_a_safetensors_file(tmp_path: Path, monkeypatch, bound: int) -> None:
    monkeypatch.setattr(journal, "MEMORY_BYTES", bound)
    numbers = torch.arange(24).view(2, 3, 4)
    tensors = {str(dtype): (numbers % 7).to(dtype) for dtype in DTYPES.values()}
    tensors |= {"a number": torch.tensor(1.5), "none": torch.empty(0, 5), "turned": numbers.permute(2, 0, 1)}
    kept = Journal(tmp_path / "out")
    kept["group"] = tensors
    read, expected = kept["group"], load_file(tmp_path / "out" / "group.safetensors")
    assert read.keys() == expected.keys() - {"sha256"} == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor) and torch.equal(expected[name], tensor)
        assert read[name].dtype == expected[name].dtype == tensor.dtype


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is mapped")
def test_released_tensors_leave_memory_and_keep_their_values(tmp_path: Path, monkeypatch) -> None:
    def mapped_kib() -> int:
        return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    monkeypatch.setattr(journal, "MEMORY_BYTES", 0)
    tensor = Journal(tmp_path / "out").room((64, 1 << 18), torch.float32)
    before = mapped_kib()
    tensor.copy_(torch.arange(64)[:, None].expand_as(tensor))
    written = mapped_kib()
    release(tensor)
    assert written - before > 60 << 10 > 4 << 10 > mapped_kib() - before
    assert torch.equal(tensor[:, 7], torch.arange(64.0))


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "MEMORY_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EdgeTransactError, match=r"no space for 2\.0 GiB of hidden states: No space left") as raised:
        Journal(tmp_path / "out").room((1 << 20, 1 << 10), torch.bfloat16)
    assert "--calibration-tokens" in raised.value.fix


def test_requirements_count_the_text_and_the_pruned_models_size(tiny_model, tmp_path: Path) -> None:
    source, text = Checkpoint.open(tiny_model), tmp_path / "text.txt"
    options = {"calibration": str(text), "calibration_tokens": 512}
    needed = []
    for characters in (1 << 16, 1 << 23):
        text.write_text("word " * (characters // 5))
        needed.append(requirements(source, PruneOptions(ratio=0.4, **options)).memory_bytes)
    assert needed[1] - needed[0] > 100 * (1 << 22) and needed[0] < PACKAGES_BYTES + (64 << 20)
    three_quarters = costs.parameters(source.plan) * 3 // 4
    for limits in ({"ratio": 0.3}, {"target_params": three_quarters}, {"ratio": 0.2, "target_params": 10**9}):
        budget = PruneOptions(**limits, **options)
        expected = pruned_plan(source.plan, decided(budget, source))
        exceeded = [limit.measure(expected) / limit.bound for limit in limits_of(budget, source.plan)]
        assert max(exceeded) == pytest.approx(1, abs=0.01), "the scarcest of the limits"
    named = decided(PruneOptions(intermediate=1, **options), source)
    assert {layer.intermediate_size for layer in pruned_plan(source.plan, named).layers} == {1}, "as it will be"


@pytest.mark.parametrize(
    ("limits", "peak_gib"),
    [
        ({"method": "transact", "heads": 6, "intermediate": 1536}, 1.82),
        ({"method": "transact", "target_params": "2.6B"}, 2.10),
        ({"target_params": "2.6B"}, 4.81),
    ],
)
def test_pruning_a_7b_takes_what_was_measured(monkeypatch, limits, peak_gib: float) -> None:
    """The tables of docs/lab/prune.md, which are of whole processes, on a machine that multiplies bf16 fast."""
    monkeypatch.setattr("edge_transact.system.computation.has_fast_bf16", lambda: True)
    plan = WidthPlan(4096, 32000, False, False, False, (LayerWidths(32, 32, 128, 128, 11008),) * 32)
    embedding = torch.empty(0, dtype=torch.bfloat16)
    source = SimpleNamespace(
        plan=plan, path=Path("7b"), config={"max_position_embeddings": 2048}, tensor=lambda name: embedding
    )
    expected = requirements(source, PruneOptions(**limits, calibration_tokens=16384))
    assert expected.memory_bytes / 2**30 == pytest.approx(peak_gib, rel=0.15)
