"""The method `best`: predicted losses, what is measured of them, and how a budget is spent on them."""

import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import UsageError
from edge_transact.prune import PruneOptions, prune
from edge_transact.prune.allocate.allocation import allocate
from edge_transact.prune.allocate.budget import limits_of
from edge_transact.prune.allocate.curves import loss_curves
from edge_transact.prune.allocate.pricing import UNITS, Spent, cheapest
from edge_transact.prune.calibrate.layerwise import LayerwiseModel
from edge_transact.prune.cut.selection import LayerSelection, select
from edge_transact.prune.cut.surgery import pruned_tensors
from edge_transact.prune.journal import Journal
from edge_transact.prune.score.loss import BlockLoss, curve, eliminate
from edge_transact.prune.score.methods import find_method
from edge_transact.prune.score.passes import score_layers
from edge_transact.prune.score.salience import LayerScores
from edge_transact.prune.score.sensitivity import measure_sensitivity, reference
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan

WINDOWS = torch.randint(96, (6, 32), generator=torch.Generator().manual_seed(0))
PLAN = WidthPlan(48, 96, True, False, False, tuple(LayerWidths(6, 3, 32, 32, 160 + 32 * index) for index in range(3)))


def positive(size: int, seed: int) -> torch.Tensor:
    factor = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / size


def vectors(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares_loss(gram: torch.Tensor, metric: torch.Tensor, go: list[int]) -> float:
    """The metric's loss of what the kept dims can't explain of those that go: W's columns of these matter alone."""
    stay = [dim for dim in range(len(gram)) if dim not in go]
    left = gram[go][:, go]
    if stay:
        left = left - gram[go][:, stay] @ torch.linalg.inv(gram[stay][:, stay]) @ gram[stay][:, go]
    return (left * metric[go][:, go]).sum().item()


def test_the_curve_is_what_least_squares_leaves() -> None:
    gram, effects = positive(7, 1), vectors(7, 2)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    for kept, loss in enumerate(curve(gram, effects, order).tolist()):
        expected = least_squares_loss(gram, effects @ effects.T, order[kept:].tolist())
        assert loss == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("size", "eliminations", "at_once"), [(8, 8, 1), (8, 3, 2), (20, 20, 1)])
def test_what_costs_least_goes_next(size: int, eliminations: int, at_once: int, monkeypatch) -> None:
    """With all that went before gone and W solved anew by least squares: dims are looked at some at a time."""
    monkeypatch.setattr("edge_transact.prune.score.loss.ELIMINATIONS", eliminations)
    gram, effects = positive(size, 1), vectors(size, 2)
    left, gone = list(range(size)), []
    while left:
        going = sorted(left, key=lambda dim: least_squares_loss(gram, effects @ effects.T, [*gone, dim]))[:at_once]
        gone += going
        left = [dim for dim in left if dim not in going]
    order, losses = eliminate(gram, effects)
    assert order.flip(0).tolist() == gone
    torch.testing.assert_close(losses, curve(gram, effects, order))


def test_losses_of_a_thousand_dims_in_fp32() -> None:
    """Rounding doesn't add up from one elimination to the next: as by one factorization in fp64."""
    gram, effects = positive(1024, 1), vectors(1024, 2)
    order, losses = eliminate(gram.float(), effects.float())
    torch.testing.assert_close(losses, curve(gram, effects, order), rtol=1e-4, atol=0)


def test_the_second_of_two_alike_is_dear() -> None:
    """Dims 0 and 1 nearly agree. Each alone could go for almost nothing, before the others; both can't."""
    activation = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    activation[:, 1] = activation[:, 0] + 0.01 * activation[:, 1]
    activation[:, :2] *= 3
    order = eliminate(activation.T @ activation, torch.eye(6))[0].tolist()
    assert order[-1] in (0, 1) and order[0] in (0, 1)


def test_losses_of_a_block() -> None:
    generator = torch.Generator().manual_seed(0)
    projection, activation = (torch.randn(*size, generator=generator) for size in ((5, 4), (50, 4)))
    gradient = torch.randn(50, 5, generator=generator)
    block = BlockLoss(projection)
    for rows in (slice(0, 20), slice(20, 50)):
        block.add(activation[rows], gradient[rows])
    fisher = gradient.T @ gradient
    weights = gradient.square().sum(dim=1)
    gram = (activation * weights[:, None]).T @ activation / weights.sum()
    change = projection[:, [1, 3]]
    expected = torch.trace(fisher @ change @ gram[[1, 3]][:, [1, 3]] @ change.T) / (2 * 50)
    torch.testing.assert_close(block.cut(torch.tensor([1, 3])), expected)
    alone = [block.cut(torch.tensor([dim])) for dim in range(4)]
    torch.testing.assert_close(block.dims(), torch.stack(alone))
    torch.testing.assert_close(block.effects @ block.effects.T, projection.T @ fisher @ projection / (2 * 50))


@pytest.mark.parametrize("tokens", [8, 100, 1000])
def test_effects_of_gradients_of_any_rank(tokens: int) -> None:
    """Of fewer tokens than outputs, of sizes that differ by thousands, and of an output that nothing depends on."""
    generator = torch.Generator().manual_seed(0)
    projection, activation = (torch.randn(*size, generator=generator) for size in ((192, 64), (tokens, 64)))
    gradient = torch.randn(tokens, 192, generator=generator) * torch.logspace(-3, 3, 192)
    gradient[:, 100] = 0
    block = BlockLoss(projection)
    block.add(activation, gradient)
    outputs = gradient.double() @ projection.double()
    expected = outputs.square().sum(dim=0) / (2 * tokens)
    torch.testing.assert_close(block.effects.double().square().sum(dim=1), expected, rtol=2e-3, atol=0)


def test_pairs_are_scored_by_what_they_give_to_attention(make_llama, monkeypatch) -> None:
    """The first-order change of the loss when a pair's queries vanish, token by token, from the whole model."""
    monkeypatch.setattr(
        "edge_transact.prune.calibrate.layerwise.LOGITS_VOCABULARY", 40
    )  # three blocks, the last one short
    source = Checkpoint.open(make_llama())
    scores = scored(source, "best")[1]
    model = AutoModelForCausalLM.from_pretrained(source.path, attn_implementation="sdpa")
    seen = []
    q_proj = model.model.layers[1].self_attn.q_proj
    q_proj.register_forward_hook(lambda _, inputs, output: seen.append(output))
    logits = model(WINDOWS).logits[:, :-1]
    seen[0].retain_grad()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), WINDOWS[:, 1:].flatten(), reduction="sum").backward()
    products = (seen[0] * seen[0].grad).view(-1, 3, 2, 2, 4)  # tokens, groups, queries, half, pair
    expected = products.sum(dim=(2, 3)).square().mean(dim=0) / 2
    torch.testing.assert_close(scores.qk_pairs, expected, rtol=1e-3, atol=1e-9)


def scored(source: Checkpoint, method: str) -> list[LayerScores]:
    everything = [LayerSelection.everything(layer) for layer in source.plan.layers]
    journal = Journal(source.path.with_name(f"out-{method}"), {}, resume=False)
    return score_layers(LayerwiseModel(source, WINDOWS), everything, find_method(method), journal, "score")


@pytest.mark.parametrize("vocabulary", [7, 4096])
def test_sensitivity_is_the_whole_models(make_llama, tmp_path: Path, vocabulary: int, monkeypatch) -> None:
    """Whether logits are computed in one block or in many."""
    for module in ("layerwise", "sensitivity"):
        monkeypatch.setattr(f"edge_transact.prune.{module}.LOGITS_VOCABULARY", vocabulary)
    source = Checkpoint.open(make_llama())
    scores = scored(source, "transact")
    everything = [LayerSelection.everything(layer) for layer in source.plan.layers]
    journal = Journal(tmp_path / "out", {}, resume=False)
    measured = measure_sensitivity(LayerwiseModel(source, WINDOWS), everything, scores, journal)

    def log_probabilities(path: Path) -> torch.Tensor:
        with torch.no_grad():
            return AutoModelForCausalLM.from_pretrained(path)(WINDOWS[:1]).logits.log_softmax(dim=-1)

    dense = log_probabilities(source.path)
    for index, layer in enumerate(source.plan.layers):
        cut = reference(layer)
        narrower = (replace(cut, intermediate_size=40), replace(layer, intermediate_size=cut.intermediate_size))
        for kind, widths in enumerate(narrower):
            selections = list(everything)
            selections[index] = select(scores[index], widths)
            plan = source.plan.with_layers(kept.widths for kept in selections)
            path = tmp_path / f"{index}-{kind}"
            write_checkpoint(source, plan, pruned_tensors(source, selections), {}, path)
            expected = (dense.exp() * (dense - log_probabilities(path))).sum(dim=-1).mean()
            torch.testing.assert_close(measured[index, kind], expected, rtol=1e-3, atol=1e-6)


def curves_of(plan: WidthPlan, generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    """Convex falling curves of loss, random ones."""

    def falling(size: int) -> torch.Tensor:
        steps = torch.rand(size, generator=generator).sort(descending=True).values
        return torch.cat([steps.flip(0).cumsum(0).flip(0), torch.zeros(1)])

    sizes = {"mlp": "intermediate_size", "groups": "num_key_value_heads", "queries": "q_per_kv", "values": "v_head_dim"}
    return [
        {
            UNITS[unit]: falling(getattr(layer, sizes[unit]) if unit in sizes else layer.qk_head_dim // 2)
            for unit in UNITS
        }
        for layer in plan.layers
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.7))
def test_what_is_spent_is_the_least_that_will_do(seed: int, ratio: float) -> None:
    """Against all plans of MLP widths and groups: within the last cut's loss of the best of them.

    Attention calls cost nothing here.
    """
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ATTENTION_CALL_PARAMETERS", 0)
        spent = cheapest(PLAN, curves, limits, units=("mlp", "groups"), bucket=32)
    assert limits[0].holds(spent.plan)

    def of(layer: int, groups: int, mlp: int) -> tuple[float, int]:
        widths = LayerWidths(2 * groups, groups, 32, 32, mlp)
        cost = costs.attention_parameters(PLAN, widths) + costs.mlp_parameters(PLAN, widths)
        return (curves[layer]["groups_loss"][groups] + curves[layer]["intermediate_loss"][mlp]).item(), cost

    choices = [
        [of(index, groups, mlp) for groups in (1, 2, 3) for mlp in range(32, layer.intermediate_size + 1, 32)]
        for index, layer in enumerate(PLAN.layers)
    ]
    best = min(
        sum(loss for loss, _ in chosen)
        for chosen in itertools.product(*choices)
        if sum(cost for _, cost in chosen) <= limits[0].bound
    )
    steps = [
        (curves[index]["intermediate_loss"][low] - curves[index]["intermediate_loss"][low + 32]).item()
        for index, layer in enumerate(PLAN.layers)
        for low in range(32, layer.intermediate_size, 32)
    ]
    groups = [
        (of_layer["groups_loss"][low] - of_layer["groups_loss"][low + 1]).item()
        for of_layer in curves
        for low in (1, 2)
    ]
    assert best - 1e-4 <= spent.loss <= best + max(steps + groups)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.7), call=st.sampled_from([0, 10**3, 10**5, 10**7]))
def test_attention_calls_cost_what_could_be_read_meanwhile(seed: int, ratio: float, call: int) -> None:
    """A plan whose layers differ in KV heads gains more than its calls cost, and the dearer they are the fewer."""
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)

    def spent(units: tuple[str, ...], call: int) -> Spent:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(costs, "ATTENTION_CALL_PARAMETERS", call)
            return cheapest(PLAN, curves, limits, units=units, bucket=32)

    free, counted = spent(("mlp", "groups"), 0), spent(("mlp", "groups"), call)
    assert counted.plan.num_virtual_layers <= free.plan.num_virtual_layers
    assert limits[0].holds(counted.plan)
    if counted.plan != free.plan:
        calls = free.plan.num_virtual_layers - counted.plan.num_virtual_layers
        assert counted.loss - free.loss <= free.price * call * calls


def test_groups_that_say_nothing_go_from_all_layers() -> None:
    """Then layers have one number of KV heads again, and one attention call each."""
    curves = [{**of_layer} for of_layer in curves_of(PLAN, torch.Generator().manual_seed(0))]
    for of_layer in curves:
        of_layer["groups_loss"] = torch.zeros_like(of_layer["groups_loss"])
    plan = cheapest(PLAN, curves, limits_of(PruneOptions(ratio=0.3), PLAN), units=("mlp", "groups"), bucket=32).plan
    assert {layer.num_key_value_heads for layer in plan.layers} == {1}
    assert plan.num_virtual_layers == plan.num_hidden_layers


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.5))
def test_query_heads_go_from_all_layers_at_once(seed: int, ratio: float) -> None:
    """One ratio for the model; and no worse than the MLP alone, but for the last cut."""
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)
    spent = cheapest(PLAN, curves, limits, units=("mlp", "queries"), bucket=32)
    assert limits[0].holds(spent.plan)
    assert spent.plan.q_per_kv in (1, 2)
    assert [layer.num_key_value_heads for layer in spent.plan.layers] == [3, 3, 3]
    step = sum((of_layer["queries_loss"][1] - of_layer["queries_loss"][2]).item() for of_layer in curves)
    with suppress(UsageError):
        assert spent.loss <= cheapest(PLAN, curves, limits, units=("mlp",), bucket=32).loss + step


QUANT = get_quantization("q4f16_0")


@settings(max_examples=25, deadline=None)
@given(data=st.data(), allocation=st.sampled_from(["uniform", "sensitivity", "budgeted"]))
def test_all_limits_hold_at_once(data: st.DataObject, allocation: str) -> None:
    measures = {
        "target_params": costs.parameters(PLAN),
        "max_weight_bytes": costs.weight_bytes(PLAN, QUANT),
        "max_kv_bytes_per_token": costs.kv_bytes_per_token(PLAN, QUANT),
        "max_memory": costs.memory_bytes(PLAN, QUANT, 2048),
    }
    names = data.draw(st.sets(st.sampled_from(sorted(measures)), min_size=1))
    budget = PruneOptions(**{name: int(measures[name] * data.draw(st.floats(0.2, 0.99))) for name in sorted(names)})
    curves = curves_of(PLAN, torch.Generator().manual_seed(0))
    try:
        plan = allocate(budget, PLAN, allocation=allocation, curves=curves).plan
    except UsageError as error:
        assert "and the smallest model has" in error.message or "half a bucket" in error.message
        return
    for limit in budget.limits(PLAN):
        # A uniform plan's nearest bucket may leave a little more than a number of parameters.
        slack = 3 * 16 * 3 * PLAN.hidden_size if limit.nearest and allocation == "uniform" else 0
        assert limit.measure(plan) <= limit.bound + slack


def test_an_impossible_set_says_which_binds() -> None:
    budget = PruneOptions(target_params=100_000, max_kv_bytes_per_token=10)
    with pytest.raises(UsageError, match=r"^--max-kv-bytes-per-token allows 10 bytes a token in q4f16_0, .* has 192$"):
        allocate(budget, PLAN, allocation="budgeted", curves=curves_of(PLAN, torch.Generator()))


def test_heads_lose_dims_where_the_cache_must_shrink() -> None:
    """One group of all heads is left, and the KV cache has one head dim: all layers narrow together."""
    layers = [replace(layer, num_attention_heads=2, num_key_value_heads=1) for layer in PLAN.layers]
    plan = PLAN.with_layers(layers)
    allowed = costs.kv_bytes_per_token(plan, QUANT) // 2
    curves = curves_of(plan, torch.Generator().manual_seed(1))
    cut = allocate(PruneOptions(max_kv_bytes_per_token=allowed), plan, allocation="budgeted", curves=curves).plan
    assert cut.cache_head_dim == 16 and {layer.v_head_dim for layer in cut.layers} == {16}
    assert costs.kv_bytes_per_token(cut, QUANT) == allowed


def test_curves_are_scaled_to_what_was_measured() -> None:
    layer = LayerWidths(4, 4, 8, 8, 8)
    predicted = {name: torch.arange(9.0).flip(0) for name in UNITS.values()}
    extra = predicted | {"attention_reference_loss": torch.tensor(2.0), "mlp_reference_loss": torch.tensor(4.0)}
    scores = LayerScores(torch.ones(4), torch.ones(4, 8), torch.ones(4, 4), torch.ones(8), extra)
    (curves,) = loss_curves([scores], [layer], torch.tensor([[6.0, 2.0]]))
    torch.testing.assert_close(curves["groups_loss"], 3 * predicted["groups_loss"])
    torch.testing.assert_close(curves["intermediate_loss"], predicted["intermediate_loss"] / 2)
    # Without a prediction, the measured cut sets the scale.
    (curves,) = loss_curves([replace(scores, extra={})], [layer], torch.tensor([[6.0, 2.0]]))
    cut = reference(layer)
    assert curves["groups_loss"][cut.num_key_value_heads] == 6 and curves["groups_loss"][4] == 0
    assert curves["intermediate_loss"][cut.intermediate_size] == 2


def test_best_beats_what_it_is_compared_with(tiny_model, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from edge_transact.evaluate.perplexity import perplexity
    from edge_transact.inputs.texts import read_text

    tokenizer, text = AutoTokenizer.from_pretrained(tiny_model), read_text("demo:sotu", "evaluation")[:20000]
    figures = {}
    for method in ("best", "transact"):
        options = {"method": method, "calibration_tokens": 4096}
        pruned = prune(str(tiny_model), tmp_path / method, PruneOptions(ratio=0.4, **options)).checkpoint
        model = AutoModelForCausalLM.from_pretrained(pruned.path)
        figures[method] = perplexity(model, tokenizer, text, window=64).perplexity
    assert figures["best"] < 0.9 * figures["transact"]


@pytest.mark.parametrize(
    "options",
    [{"method": "best"}, {"method": "wanda", "allocation": "budgeted"}, {"method": "transact"}],
    ids=["best", "budgeted", "uniform"],
)
def test_query_heads_inside_groups_are_a_unit(tiny_model, tmp_path: Path, options) -> None:
    """With nothing else to cut, half of the query heads go from every group of every layer."""
    whole = Checkpoint.open(tiny_model).plan
    # Two query heads of q and o; k and v stay.
    ratio = 0.5 * 2 * whole.hidden_size * whole.widest.attention_size * len(whole.layers)
    ratio = 0.99 * ratio / costs.prunable_parameters(whole)
    choices = PruneOptions(ratio=ratio, units=["queries"], calibration_tokens=1024, **options)
    pruned = prune(str(tiny_model), tmp_path / "out", choices)
    layer = whole.widest
    narrower = replace(layer, num_attention_heads=layer.num_key_value_heads)
    assert layer.q_per_kv == 2 and set(pruned.checkpoint.plan.layers) == {narrower}
    model = AutoModelForCausalLM.from_pretrained(pruned.checkpoint.path)
    assert model(torch.arange(16)[None]).logits.isfinite().all()
