"""Budgets in milliseconds, by a profile: plans meet them, and what can't be met or predicted is refused."""

import json
import logging
from pathlib import Path

import pytest
import torch

from edge_transact.costs.profile import Profile, Rates, roofline
from edge_transact.errors import UsageError
from edge_transact.pruning.allocate.allocation import allocate, check_reachable
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.pruning.units import UNITS
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan

PLAN = WidthPlan(48, 96, True, False, False, (LayerWidths(6, 3, 32, 32, 160),) * 4)
RATES = Rates(bandwidth_bytes_per_s=1e8, flops_per_s=1e9, launch_s=1e-5)


def profile_of(plan: WidthPlan) -> Profile:
    quantization = get_quantization("q4f16_0")
    return roofline(plan, quantization, RATES, target="host", contexts=[256, 2048], prefill_chunk=128)


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    path.write_text(profile_of(PLAN).model_dump_json())
    return path


def curves() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            name: torch.rand(unit.count(layer) + 1, generator=generator).sort(descending=True).values
            for name, unit in UNITS.items()
        }
        for layer in PLAN.layers
    ]


@pytest.mark.parametrize("drop", [False, True], ids=["keep", "drop"])
@pytest.mark.parametrize("share", [0.9, 0.7])
def test_a_plan_meets_its_times_and_is_not_needlessly_small(profile: Path, share: float, drop: bool) -> None:
    known = profile_of(PLAN)
    decode, prefill = known.decode_s(PLAN, 2048), known.prefill_s(PLAN, 256)
    budget = {"max_decode": share * decode, "max_prefill": f"256:{share * prefill:.9f}s"}
    options = PruneOptions(**budget, profile=profile, allocation="budgeted", drop=drop)
    allocation = allocate(options, PLAN, curves())
    plan = allocation.plan
    assert all(limit.holds(plan) for limit in limits_of(options, PLAN))
    used = max(known.decode_s(plan, 2048) / decode, known.prefill_s(plan, 256) / prefill) / share
    assert 0.9 < used <= 1
    assert " is predicted" in allocation.notes[0] and " binds" in allocation.notes[0]
    record = allocation.provenance(limits_of(options, PLAN))["limits"]
    assert [row["limit"] for row in record] == ["--max-decode", "--max-prefill"]
    assert record[0]["measured"] == known.decode_s(plan, 2048) <= record[0]["allowed"]


def test_an_impossible_time_says_the_fastest_and_what_it_costs(profile: Path) -> None:
    options = PruneOptions(max_decode="1us", profile=profile, allocation="budgeted", drop=True)
    with pytest.raises(
        UsageError, match=r"--max-decode allows 0\.001 ms for a token at a context of 2,048, and"
    ) as error:
        check_reachable(options, PLAN)
    assert "the fastest model takes" in str(error.value) and "% of attention and MLP removed" in str(error.value)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"max_decode": "12ms"}, "without --profile"),
        ({"ratio": 0.3, "profile": Path("p.json")}, "--profile without --max-decode"),
        ({"max_decode": "12"}, "'12' is not a time"),
        ({"max_decode": "-1ms"}, "is not a time"),
        ({"max_prefill": "256"}, "not a number of tokens and a time"),
        ({"max_prefill": "0:1s"}, "not a number of tokens and a time"),
    ],
)
def test_bad_times(budget: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneOptions(**budget)


def test_profiles_of_something_else_are_refused(profile: Path) -> None:
    for more, message in (({"quant": "q4f32_1"}, "q4f32_1"), ({"context": 4096}, "4,096")):
        with pytest.raises(UsageError, match=message):
            limits_of(PruneOptions(max_decode="1ms", profile=profile, **more), PLAN)
    other = WidthPlan(64, 96, True, False, False, PLAN.layers)
    with pytest.raises(UsageError, match="hidden_size"):
        limits_of(PruneOptions(max_decode="1ms", profile=profile), other)


def test_a_time_is_pruned_to_and_recorded_and_a_roofline_is_named(random_model: Path, tmp_path: Path, caplog) -> None:
    from edge_transact.checkpoint import Checkpoint

    plan = Checkpoint.open(random_model).plan
    known = profile_of(plan)
    (tmp_path / "p.json").write_text(known.model_dump_json())
    seconds = 0.8 * known.decode_s(plan, 256)
    options = PruneOptions(
        max_decode=seconds, context=256, profile=tmp_path / "p.json", calibration_tokens=1024, method="obs"
    )
    with caplog.at_level(logging.WARNING):
        result = prune(str(random_model), tmp_path / "out", options)
    assert caplog.text.count("is a roofline") == 1
    assert known.decode_s(result.checkpoint.plan, 256) <= seconds
    record = json.loads((tmp_path / "out" / "edge_transact.json").read_text())
    assert json.dumps(record).count('"--max-decode"') == 1 and result.to_dict()["limits"][0]["allowed"] == seconds
