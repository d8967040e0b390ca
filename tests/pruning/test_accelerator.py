"""With a GPU, all computation of layers is on it, and the pruned model is the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edge_transact.layerwise import model as layerwise
from edge_transact.pruning.options import METHODS, PruneOptions
from edge_transact.pruning.run import prune
from tests.support.accelerator import NAME, accelerator
from tests.support.pruning import another_cache


def test_tensors_of_two_devices_do_not_mix() -> None:
    with accelerator():
        here, there = torch.ones(3), torch.ones(3).to(NAME)
        assert there.device.type == NAME and (there + there).device.type == NAME
        assert torch.equal((there + there).cpu(), here + here)
        for mixed in (lambda: here + there, lambda: here[there.long()], lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        assert torch.equal(there[torch.tensor([0, 2])].cpu(), here[:2])


@pytest.mark.parametrize("native", [True, False])
def test_bf16_where_the_gpu_multiplies_it(native: bool, monkeypatch) -> None:
    """A GPU that only emulates bf16, a T4 for instance, computes in fp32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    found = layerwise.computation_dtype(torch.bfloat16, torch.device("cuda"))
    assert found == (torch.bfloat16 if native else torch.float32)
    assert layerwise.computation_dtype(torch.float16, torch.device("cuda")) == torch.float32


RUNS = [{"method": method, "compensate": compensate} for method in METHODS for compensate in (False, True)]
RUNS += [
    {"method": "transact", "allocation": "sensitivity", "shots": 2},
    {"method": "obs", "units": ("mlp", "groups", "queries")},
    {"method": "obs", "units": ("mlp", "values", "queries-keys")},
]


def name_of(options: dict) -> str:
    return "-".join(map(str, options.values()))


IN_SOAK = [
    options
    for options in RUNS
    if options["method"] in ("magnitude", "random", "wanda", "flap") or options.get("compensate") is False
]
"""What the other runs compute, too."""


@pytest.mark.parametrize(
    "options", [pytest.param(each, id=name_of(each), marks=[pytest.mark.soak] * (each in IN_SOAK)) for each in RUNS]
)
def test_the_same_model_as_from_the_cpu(random_model, tmp_path: Path, monkeypatch, calibration, options: dict) -> None:
    chosen = PruneOptions(ratio=0.3, **options, **calibration)
    prune(str(random_model), tmp_path / "cpu", chosen)
    with accelerator() as device:
        monkeypatch.setattr(layerwise, "compute_device", lambda: torch.device(NAME, 0))
        another_cache(tmp_path / "cache", monkeypatch)
        prune(str(random_model), tmp_path / "device", chosen)
    assert device.products > 0 or options["method"] in ("magnitude", "random")
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("device", "cpu"))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
