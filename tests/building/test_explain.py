"""`explain` says where bytes, times and losses are, and its sums are those of the whole model."""

import json
from pathlib import Path

import pytest

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.costs.profile import Rates, roofline
from edge_transact.quantization import get_quantization
from tests.support.command import edge_transact

Q4 = get_quantization("q4f16_0")
RATES = Rates(bandwidth_bytes_per_s=1e8, flops_per_s=1e9, launch_s=1e-5)


@pytest.fixture
def profile(random_model: Path, tmp_path: Path):
    plan = Checkpoint.open(random_model).plan
    known = roofline(plan, Q4, RATES, target="host", contexts=[64, 2048], prefill_chunk=64)
    (tmp_path / "profile.json").write_text(known.model_dump_json())
    return known


def test_blocks_add_up_to_the_model(random_model: Path, tmp_path: Path, profile) -> None:
    """Also for a plan without an attention and without an MLP, and a prompt of more than one chunk."""
    rows = [{} for _ in Checkpoint.open(random_model).plan.layers]
    rows[0], rows[-1] = {"num_key_value_heads": 0}, {"intermediate_size": 0}
    (tmp_path / "widths.json").write_text(json.dumps(rows))
    for more in ([], ["--widths", tmp_path / "widths.json"]):
        options = ["--profile", tmp_path / "profile.json", "--context", 100, "--prefill", 150]
        code, out, err = edge_transact("explain", random_model, *options, *more, "--json")
        assert code == 0, err
        found = json.loads(out)
        plan = Checkpoint.open(random_model).plan
        if more:
            from edge_transact.widths import read_widths

            plan = read_widths(tmp_path / "widths.json", plan)
        total = found["total"]
        assert total["parameters"] == costs.parameters(plan)
        assert total["weight_bytes"] == costs.weight_bytes(plan, Q4)
        assert total["kv_bytes"] == 100 * costs.kv_bytes_per_token(plan, Q4)
        assert total["decode_s"] == pytest.approx(profile.decode_s(plan, 100))
        assert total["prefill_s"] == pytest.approx(profile.prefill_s(plan, 150))
        assert all(block["parameters"] >= 0 for block in found["blocks"])
    first, *_, last, fixed = found["blocks"]
    assert first["parameters"] == first["decode_s"] == 0 and last["parameters"] == 0 and fixed["layer"] is None


def test_a_pruned_model_says_its_losses_and_limits(random_model: Path, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    limits = ["--ratio", 0.3, "--max-weight-bytes", "10GB"]
    code, _, err = edge_transact("prune", random_model, *limits, "--calibration-tokens", 1024, "-o", pruned)
    assert code == 0, err
    code, out, err = edge_transact("explain", pruned, "--json", "--plot", tmp_path / "blocks.svg")
    assert code == 0, err
    found = json.loads(out)
    assert found["binds"] == "--ratio 0.3" and len(found["limits"]) == 2
    assert sum(block["relative_loss"] or 0 for block in found["blocks"]) == pytest.approx(1)
    assert "attention" in (tmp_path / "blocks.svg").read_text()
    code, out, _ = edge_transact("explain", pruned)
    assert "--ratio 0.3: " in out and ", which binds" in out and "relative loss" in out
