"""From budgets to widths: budgets are reached within a bucket, and impossible ones are refused with a way out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.options import parse_parameters
from edge_transact.pruning.allocate.allocation import allocate, check_reachable
from edge_transact.pruning.options import PruneOptions
from edge_transact.widths import LayerWidths, WidthPlan

LLAMA_2_7B = WidthPlan(4096, 32000, False, False, False, (LayerWidths(32, 32, 128, 128, 11008),) * 32)
SMOLLM2 = WidthPlan(576, 49152, True, False, False, (LayerWidths(9, 3, 64, 64, 1536),) * 30)


@st.composite
def plans(draw) -> WidthPlan:
    q_per_kv = draw(st.integers(1, 4))
    head_dim = draw(st.sampled_from([8, 64, 128]))

    def layer() -> LayerWidths:
        groups = draw(st.integers(1, 16))
        return LayerWidths(groups * q_per_kv, groups, head_dim, head_dim, draw(st.integers(64, 4096)))

    layers = tuple(layer() for _ in range(draw(st.integers(1, 4))))
    return WidthPlan(256, 1000, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()), layers)


def parameters_of_a_dim(plan: WidthPlan) -> int:
    """Parameters of one MLP dim."""
    layer = plan.layers[0]
    narrower = replace(layer, intermediate_size=layer.intermediate_size - 1)
    return costs.mlp_parameters(plan, layer) - costs.mlp_parameters(plan, narrower)


@st.composite
def plans_and_ratios(draw, bucket: int) -> tuple[WidthPlan, float]:
    """A plan, and a ratio that it can reach and that takes more than half a bucket from the widest MLP."""
    plan = draw(plans())
    smallest = plan.with_layers(
        LayerWidths(a.q_per_kv, 1, a.qk_head_dim, a.v_head_dim, min(bucket, a.intermediate_size)) for a in plan.layers
    )
    dims = [layer.intermediate_size for layer in plan.layers]
    least = (bucket / 2 + 1) / max(dims) * sum(dims) * parameters_of_a_dim(plan) / costs.prunable_parameters(plan)
    most = costs.cut_ratio(smallest, plan)
    assume(least < most)
    return plan, least + draw(st.floats(0, 0.999)) * (most - least)


@given(data=st.data(), bucket=st.sampled_from([1, 8, 32]))
def test_a_ratio_is_reached_within_half_a_bucket(data: st.DataObject, bucket: int) -> None:
    plan, ratio = data.draw(plans_and_ratios(bucket))
    target = allocate(PruneOptions(ratio=ratio, bucket=bucket), plan).plan
    dim = parameters_of_a_dim(plan)
    at_floor = 0
    for before, after in zip(plan.layers, target.layers, strict=True):
        assert after.q_per_kv == before.q_per_kv
        assert after.num_key_value_heads <= before.num_key_value_heads
        assert after.intermediate_size <= before.intermediate_size
        assert after.intermediate_size % bucket == 0 or after.intermediate_size == before.intermediate_size
        at_floor += after.intermediate_size == min(bucket, before.intermediate_size)
    # If there are few groups, all are kept as long as the MLP can take all of the cut.
    of_mlp = sum(costs.mlp_parameters(plan, layer) for layer in plan.layers) / costs.prunable_parameters(plan)
    if min(layer.num_key_value_heads for layer in plan.layers) < 8 and ratio < of_mlp - 0.5:
        assert [a.num_key_value_heads for a in target.layers] == [b.num_key_value_heads for b in plan.layers]
    # A layer at its floor gives up less than its share.
    slack = (bucket / 2 + 1) * dim * plan.num_hidden_layers + at_floor * bucket * dim
    asked = ratio * costs.prunable_parameters(plan)
    excess = costs.cut_ratio(target, plan) * costs.prunable_parameters(plan) - asked
    assert excess >= -slack
    # If a complete group had to be cut and the MLP is uncut, nothing is left to make up for it.
    mlp_cuts = [a.intermediate_size - b.intermediate_size for a, b in zip(plan.layers, target.layers, strict=True)]
    assert excess <= slack or max(mlp_cuts) < bucket


def test_with_few_groups_a_ratio_is_cut_from_the_mlp_and_noted() -> None:
    allocation = allocate(PruneOptions(ratio=0.3), SMOLLM2)
    assert set(allocation.plan.layers) == {LayerWidths(9, 3, 64, 64, 928)}
    reached, why, rounded = allocation.notes
    assert "0.2969" in reached and "the MLP takes the whole cut" in why and "921.6 became 928" in rounded


def test_with_many_groups_a_ratio_is_cut_from_both_and_bucket_1_keeps_the_exact_share() -> None:
    layer = allocate(PruneOptions(ratio=0.5), LLAMA_2_7B).plan.layers[0]
    assert (layer.num_attention_heads, layer.intermediate_size) == (16, 5504)
    assert allocate(PruneOptions(ratio=0.3, bucket=1), SMOLLM2).plan.layers[0].intermediate_size == 922


@pytest.mark.parametrize(("heads", "intermediate", "billions"), [(16, 3072, 2.54), (6, 1536, 1.27)])
def test_the_published_shapes(heads: int, intermediate: int, billions: float) -> None:
    plan = allocate(PruneOptions(heads=heads, intermediate=intermediate), LLAMA_2_7B).plan
    assert round(costs.parameters(plan) / 1e9, 2) == billions


def test_target_parameters() -> None:
    plan = allocate(PruneOptions(target_params=parse_parameters("2.6B")), LLAMA_2_7B).plan
    assert abs(costs.parameters(plan) - 2.6e9) < 16 * 3 * 4096 * 32


@pytest.mark.parametrize(
    ("text", "number"), [("1.3B", 1_300_000_000), ("900M", 900_000_000), ("64k", 64_000), ("1,234_567", 1_234_567)]
)
def test_numbers_of_parameters(text: str, number: int) -> None:
    assert parse_parameters(text) == number


@pytest.mark.parametrize("text", ["", "B", "-1B", "1.3T", "nan", "1e9x"])
def test_texts_that_are_not_a_number_of_parameters(text: str) -> None:
    with pytest.raises(UsageError, match="not a number of parameters"):
        parse_parameters(text)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 1.5, float("nan"), float("inf")])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        PruneOptions(ratio=ratio)


def test_limits_go_together_and_widths_alone() -> None:
    with pytest.raises(UsageError, match="no budget"):
        PruneOptions()
    with pytest.raises(UsageError, match=r"several budgets at once: --ratio, --heads/--intermediate"):
        PruneOptions(ratio=0.3, heads=6)
    PruneOptions(heads=6, intermediate=512)
    PruneOptions(ratio=0.3, max_weight_bytes=10**9, max_memory=2 * 10**9)


@pytest.mark.parametrize(
    ("budget", "message", "fix"),
    [
        (PruneOptions(heads=4), "3 query heads share a KV head", "3, 6, 9"),
        (PruneOptions(heads=12), "more than the model's 9", "narrows"),
        (PruneOptions(intermediate=1537), "more than the model's 1536", "narrows"),
        (PruneOptions(heads=9), "nothing to prune", "smaller"),
        (PruneOptions(ratio=0.99), r"--ratio 0.99 allows .* attention and MLP parameters, and the smallest", "--heads"),
        (PruneOptions(ratio=0.001), "half a bucket", "--bucket 1"),
        (PruneOptions(target_params=10**6), "--target-params allows 1,000,000 parameters, and the smallest", "--heads"),
        (PruneOptions(target_params=10**9), r"within all limits already: .* it has 134,515,008", "less"),
    ],
)
def test_budgets_beyond_the_model(budget: PruneOptions, message: str, fix: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        allocate(budget, SMOLLM2)
    assert fix in caught.value.fix


def test_widths_from_a_file_are_used_as_they_are(tmp_path: Path) -> None:
    rows = [{"num_key_value_heads": 1 + index % 3, "intermediate_size": 1001 + index} for index in range(30)]
    (tmp_path / "widths.json").write_text(json.dumps(rows))
    layers = allocate(PruneOptions(widths=tmp_path / "widths.json"), SMOLLM2).plan.layers
    assert [layer.intermediate_size for layer in layers] == [1001 + index for index in range(30)]
    assert [layer.num_attention_heads for layer in layers] == [3 * (1 + index % 3) for index in range(30)]
    (tmp_path / "widths.json").write_text(json.dumps([{"qk_head_dim": 32, "v_head_dim": 48}] + [{}] * 29))
    first, second, *_ = allocate(PruneOptions(widths=tmp_path / "widths.json"), SMOLLM2).plan.layers
    assert first == LayerWidths(9, 3, 32, 48, 1536) and second == SMOLLM2.layers[1]


@pytest.mark.parametrize("units", [["groups", "mlp"], ["values", "groups", "mlp"]])
def test_named_units_that_rounding_keeps_are_noted(units: list[str]) -> None:
    """70 % of three groups, rounded up, are all three; 70 % of 64 value dims are not."""
    allocation = allocate(PruneOptions(ratio=0.3, units=units), SMOLLM2)
    assert {layer.num_key_value_heads for layer in allocation.plan.layers} == {3}
    (note,) = [note for note in allocation.notes if "were cut" in note]
    assert note.startswith("no KV groups were cut") and "rounded up" in note


def test_named_units_that_are_cut_need_no_note() -> None:
    allocation = allocate(PruneOptions(ratio=0.5, units=["groups", "mlp"]), SMOLLM2)
    assert {layer.num_key_value_heads for layer in allocation.plan.layers} == {2}
    assert not any("were cut" in note for note in allocation.notes)


@pytest.mark.parametrize("allocation", ["uniform", "sensitivity", "budgeted"])
@pytest.mark.parametrize("units", [["mlp"], ["groups"], ["queries"], ["values"], ["mlp", "groups", "queries"]])
def test_impossible_budgets_are_refused_before_the_work(allocation: str, units: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--ratio 0\.99 allows .* and the smallest model has"):
        check_reachable(PruneOptions(ratio=0.99, allocation=allocation, units=units), SMOLLM2)


def test_an_allocation_nearly_right_is_suggested() -> None:
    with pytest.raises(UsageError, match="unknown allocation 'unifrom'") as caught:
        PruneOptions(ratio=0.3, allocation="unifrom")
    assert "Did you mean 'uniform'?" in caught.value.fix
