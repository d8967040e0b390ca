"""The method `obs`: predicted losses, their correction by measurement, and how they spend a budget."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_transact import costs
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import UsageError
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.allocate.allocation import allocate
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.allocate.program import ENOUGH
from edge_transact.pruning.allocate.solver import Spent, cheapest
from edge_transact.pruning.cut import pruned_tensors, select
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.pruning.score.loss import BlockLoss, curve, eliminate
from edge_transact.pruning.score.sensitivity import measure_sensitivity, reference, sensitivity_curves
from edge_transact.pruning.scores import LayerScores, PredictedLosses
from edge_transact.pruning.units import UNITS
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.pruning import everything, scores_of

WINDOWS = torch.randint(96, (6, 32), generator=torch.Generator().manual_seed(0))
PLAN = WidthPlan(48, 96, True, False, False, tuple(LayerWidths(6, 3, 32, 32, 160 + 32 * index) for index in range(3)))


def positive(size: int, seed: int) -> torch.Tensor:
    factor = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.T / size


def vectors(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, size + 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares_loss(gram: torch.Tensor, metric: torch.Tensor, go: list[int]) -> float:
    """The loss of the part of the cut dims that the kept dims don't explain, with all of W's effect in `metric`."""
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
def test_the_dims_that_cost_least_are_eliminated_next(size: int, eliminations: int, at_once: int, monkeypatch) -> None:
    """With W solved again by least squares after each elimination, which takes several dims at a time."""
    monkeypatch.setattr("edge_transact.pruning.score.loss.ELIMINATIONS", eliminations)
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
    """Rounding errors don't add up over eliminations: losses are those of one factorization in fp64."""
    gram, effects = positive(1024, 1), vectors(1024, 2)
    order, losses = eliminate(gram.float(), effects.float())
    torch.testing.assert_close(losses, curve(gram, effects, order), rtol=1e-4, atol=0)


def test_the_second_of_two_similar_dims_is_expensive() -> None:
    """Dims 0 and 1 nearly agree: each alone can be cut at almost no cost, before the others, but not both."""
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
    """With fewer tokens than outputs, sizes that differ by thousands, and an output that nothing depends on."""
    generator = torch.Generator().manual_seed(0)
    projection, activation = (torch.randn(*size, generator=generator) for size in ((192, 64), (tokens, 64)))
    gradient = torch.randn(tokens, 192, generator=generator) * torch.logspace(-3, 3, 192)
    gradient[:, 100] = 0
    block = BlockLoss(projection)
    block.add(activation, gradient)
    outputs = gradient.double() @ projection.double()
    expected = outputs.square().sum(dim=0) / (2 * tokens)
    torch.testing.assert_close(block.effects.double().square().sum(dim=1), expected, rtol=2e-3, atol=0)


def test_pairs_are_scored_by_their_effect_on_attention(make_llama, monkeypatch) -> None:
    """The first-order change of the loss when a pair's queries vanish, token by token, in the complete model."""
    monkeypatch.setattr("edge_transact.layerwise.model.LOGITS_VOCABULARY", 40)  # three blocks, the last one short
    source = Checkpoint.open(make_llama())
    scores = scores_of(source, WINDOWS, "obs")[1]
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


@pytest.mark.parametrize("vocabulary", [7, 4096])
def test_sensitivity_is_the_whole_models(make_llama, tmp_path: Path, vocabulary: int, monkeypatch) -> None:
    """With logits computed in one block and in several."""
    monkeypatch.setattr("edge_transact.layerwise.model.LOGITS_VOCABULARY", vocabulary)
    source = Checkpoint.open(make_llama())
    scores, whole = scores_of(source, WINDOWS, "transact"), everything(source)
    measured = measure_sensitivity(
        LayerwiseModel(source, WINDOWS), whole, scores, Journal(tmp_path / "out"), drops=True
    )

    def log_probabilities(path: Path) -> torch.Tensor:
        with torch.no_grad():
            return AutoModelForCausalLM.from_pretrained(path)(WINDOWS[:1]).logits.log_softmax(dim=-1)

    dense = log_probabilities(source.path)
    for index, layer in enumerate(source.plan.layers):
        cut = reference(layer)
        narrower = (
            replace(cut, intermediate_size=40),
            replace(layer, intermediate_size=cut.intermediate_size),
            LayerWidths(0, 0, 0, 0, 40),
            replace(layer, intermediate_size=0),
        )
        for kind, widths in enumerate(narrower):
            selections = list(whole)
            selections[index] = select(scores[index], widths)
            plan = source.plan.with_layers(kept.widths for kept in selections)
            path = tmp_path / f"{index}-{kind}"
            write_checkpoint(source, plan, pruned_tensors(source, selections), {}, path)
            expected = (dense.exp() * (dense - log_probabilities(path))).sum(dim=-1).mean()
            torch.testing.assert_close(measured[index, kind], expected, rtol=1e-3, atol=1e-6)


def curves_of(plan: WidthPlan, generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    """Random sensitivity curves, convex and falling."""

    def falling(size: int) -> torch.Tensor:
        steps = torch.rand(size, generator=generator).sort(descending=True).values
        return torch.cat([steps.flip(0).cumsum(0).flip(0), torch.zeros(1)])

    return [{name: falling(unit.count(layer)) for name, unit in UNITS.items()} for layer in plan.layers]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.7))
def test_the_loss_is_the_least_that_meets_the_limit(seed: int, ratio: float) -> None:
    """Compared with all plans of MLP widths and groups. Attention calls cost nothing here."""
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ATTENTION_CALL_PARAMETERS", 0)
        spent = cheapest(PLAN, curves, limits, units=("mlp", "groups"), bucket=32)
    assert limits[0].holds(spent.plan)

    def of(layer: int, groups: int, mlp: int) -> tuple[float, int]:
        widths = LayerWidths(2 * groups, groups, 32, 32, mlp)
        cost = costs.layer_parameters(PLAN, widths)
        return (curves[layer]["groups"][groups] + curves[layer]["mlp"][mlp]).item(), cost

    choices = [
        [of(index, groups, mlp) for groups in (1, 2, 3) for mlp in range(32, layer.intermediate_size + 1, 32)]
        for index, layer in enumerate(PLAN.layers)
    ]
    best = min(
        sum(loss for loss, _ in chosen)
        for chosen in itertools.product(*choices)
        if sum(cost for _, cost in chosen) <= limits[0].bound
    )
    assert best - 1e-4 <= spent.loss <= best * (1 + ENOUGH) + 1e-4


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.7), call=st.sampled_from([0, 10**3, 10**5, 10**7]))
def test_attention_calls_cost_the_parameters_that_could_be_read_meanwhile(seed: int, ratio: float, call: int) -> None:
    """A plan whose layers differ in KV heads gains more than its calls cost; costlier calls mean fewer of them."""
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)

    def spent(units: tuple[str, ...], call: int) -> Spent:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(costs, "ATTENTION_CALL_PARAMETERS", call)
            return cheapest(PLAN, curves, limits, units=units, bucket=32)

    free, counted = spent(("mlp", "groups"), 0), spent(("mlp", "groups"), call)
    assert counted.plan.num_virtual_layers <= free.plan.num_virtual_layers
    assert limits[0].holds(counted.plan)
    calls = free.plan.num_virtual_layers - counted.plan.num_virtual_layers
    assert counted.loss - free.loss <= free.price * call * calls + ENOUGH * (free.loss + free.price * call * 9)


def test_groups_that_cost_nothing_are_cut_from_all_layers() -> None:
    """Then all layers have the same number of KV heads, and one attention call each."""
    curves = [{**of_layer} for of_layer in curves_of(PLAN, torch.Generator().manual_seed(0))]
    for of_layer in curves:
        of_layer["groups"] = torch.zeros_like(of_layer["groups"])
    plan = cheapest(PLAN, curves, limits_of(PruneOptions(ratio=0.3), PLAN), units=("mlp", "groups"), bucket=32).plan
    assert {layer.num_key_value_heads for layer in plan.layers} == {1}
    assert plan.num_virtual_layers == plan.num_hidden_layers


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), ratio=st.floats(0.02, 0.5))
def test_query_heads_are_cut_from_all_layers_at_once_and_cost_no_more_than_the_mlp(seed: int, ratio: float) -> None:
    """The model has one ratio of query heads to KV heads. The MLP alone reaches a ratio of 0.416."""
    curves = curves_of(PLAN, torch.Generator().manual_seed(seed))
    limits = limits_of(PruneOptions(ratio=ratio), PLAN)
    spent = cheapest(PLAN, curves, limits, units=("mlp", "queries"), bucket=32)
    assert limits[0].holds(spent.plan)
    assert spent.plan.q_per_kv in (1, 2)
    assert [layer.num_key_value_heads for layer in spent.plan.layers] == [3, 3, 3]
    if ratio < 0.41:
        assert spent.loss <= cheapest(PLAN, curves, limits, units=("mlp",), bucket=32).loss * (1 + ENOUGH)


QUANT = get_quantization("q4f16_0")


@settings(max_examples=25)
@given(data=st.data(), allocation=st.sampled_from(["uniform", "sensitivity", "budgeted"]))
def test_all_limits_hold_at_once(data: st.DataObject, allocation: str) -> None:
    """Limits between what one KV group and one bucket of MLP dims take, and four fifths of the way to the source."""
    measures: dict[str, Callable[[WidthPlan], int]] = {
        "target_params": costs.parameters,
        "max_weight_bytes": lambda plan: costs.weight_bytes(plan, QUANT),
        "max_kv_bytes_per_token": lambda plan: costs.kv_bytes_per_token(plan, QUANT),
        "max_memory": lambda plan: costs.memory_bytes(plan, QUANT, 2048),
    }
    smallest = PLAN.with_layers([LayerWidths(2, 1, 32, 32, 32)] * 3)
    names = data.draw(st.sets(st.sampled_from(sorted(measures)), min_size=1))
    bounds = {}
    for name in sorted(names):
        least, most = measures[name](smallest), measures[name](PLAN)
        bounds[name] = least + int(data.draw(st.floats(0, 0.8)) * (most - least))
    budget = PruneOptions(**bounds, allocation=allocation)
    curves = curves_of(PLAN, torch.Generator().manual_seed(0))
    plan = allocate(budget, PLAN, curves).plan
    for limit in limits_of(budget, PLAN):
        # A uniform plan's nearest bucket may leave a little more than a number of parameters.
        slack = 3 * 16 * 3 * PLAN.hidden_size if limit.nearest and allocation == "uniform" else 0
        assert limit.measure(plan) <= limit.bound + slack


def test_impossible_limits_name_the_one_that_binds() -> None:
    budget = PruneOptions(target_params=100_000, max_kv_bytes_per_token=10, allocation="budgeted")
    with pytest.raises(UsageError, match=r"^--max-kv-bytes-per-token allows 10 bytes a token in q4f16_0, .* has 192$"):
        allocate(budget, PLAN, curves_of(PLAN, torch.Generator()))


def test_heads_lose_dims_if_the_cache_must_shrink() -> None:
    """Each layer has one KV group, and the KV cache has one head dim: all layers narrow together."""
    layers = [replace(layer, num_attention_heads=2, num_key_value_heads=1) for layer in PLAN.layers]
    plan = PLAN.with_layers(layers)
    allowed = costs.kv_bytes_per_token(plan, QUANT) // 2
    curves = curves_of(plan, torch.Generator().manual_seed(1))
    cut = allocate(PruneOptions(max_kv_bytes_per_token=allowed, allocation="budgeted"), plan, curves).plan
    assert cut.cache_head_dim == 16 and {layer.v_head_dim for layer in cut.layers} == {16}
    assert costs.kv_bytes_per_token(cut, QUANT) == allowed


def test_the_cache_shrinks_by_the_cut_of_the_only_layer_that_is_wider() -> None:
    """The other layer's heads were cut before."""
    widest = LayerWidths(8, 8, 32, 64, 1024)
    plan = WidthPlan(512, 100, True, False, False, (replace(widest, v_head_dim=32), widest), head_dim=64)
    allowed = costs.kv_bytes_per_token(plan, QUANT) * 3 // 4
    options = PruneOptions(max_kv_bytes_per_token=allowed, allocation="budgeted", units="mlp,values")
    cut = allocate(options, plan, curves_of(plan, torch.Generator().manual_seed(0))).plan
    assert costs.kv_bytes_per_token(cut, QUANT) <= allowed and cut.layers[0] == plan.layers[0]


@settings(max_examples=50)
@given(windows=st.integers(1, 40), tokens=st.integers(0, 400))
def test_a_sample_has_at_most_so_many_tokens(random_model: Path, windows: int, tokens: int) -> None:
    model = LayerwiseModel(Checkpoint.open(random_model), torch.zeros(windows, 8, dtype=torch.long))
    assert len(model.sample(tokens).windows) == min(windows, max(1, tokens // 8))


def test_curves_are_scaled_to_what_was_measured() -> None:
    layer = LayerWidths(4, 4, 8, 8, 8)
    predicted = {name: torch.arange(9.0).flip(0) for name in UNITS}
    losses = PredictedLosses(predicted, {"attention": torch.tensor(2.0), "mlp": torch.tensor(4.0)})
    scores = LayerScores(torch.ones(4), torch.ones(4, 8), torch.ones(4, 4), torch.ones(8), losses)
    (curves,) = sensitivity_curves([scores], [layer], torch.tensor([[6.0, 2.0]]))
    torch.testing.assert_close(curves["groups"], 3 * predicted["groups"])
    torch.testing.assert_close(curves["mlp"], predicted["mlp"] / 2)
    # What dropping the whole module costs is measured.
    (dropped,) = sensitivity_curves([scores], [layer], torch.tensor([[6.0, 2.0, 1.5, 7.0]]))
    assert dropped["groups"][0] == 1.5 and dropped["mlp"][0] == 7 and predicted["mlp"][0] == 8
    assert all(torch.equal(dropped[name][1:], curves[name][1:]) for name in UNITS)
    # Without predictions, the measured cut sets the scale.
    (curves,) = sensitivity_curves([replace(scores, losses=None)], [layer], torch.tensor([[6.0, 2.0]]))
    cut = reference(layer)
    assert curves["groups"][cut.num_key_value_heads] == 6 and curves["groups"][4] == 0
    assert curves["mlp"][cut.intermediate_size] == 2


def test_best_beats_what_it_is_compared_with(tiny_model, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from edge_transact.evaluation.perplexity import perplexity
    from edge_transact.inputs.texts import read_text

    tokenizer, text = AutoTokenizer.from_pretrained(tiny_model), read_text("demo:sotu", "evaluation")[:20000]
    figures = {}
    for method in ("obs", "transact"):
        options = {"method": method, "calibration_tokens": 4096}
        pruned = prune(str(tiny_model), tmp_path / method, PruneOptions(ratio=0.4, **options)).checkpoint
        model = AutoModelForCausalLM.from_pretrained(pruned.path)
        figures[method] = perplexity(model, tokenizer, text, window=64)["perplexity"]
    assert figures["obs"] < 0.9 * figures["transact"]


@pytest.mark.parametrize(
    "options",
    [{"method": "obs"}, {"method": "wanda", "allocation": "budgeted"}, {"method": "transact"}],
    ids=["obs", "budgeted", "uniform"],
)
def test_query_heads_inside_groups_are_a_unit(tiny_model, tmp_path: Path, options) -> None:
    """If nothing else can be cut, every group of every layer loses half of its query heads."""
    whole = Checkpoint.open(tiny_model).plan
    # Half of q and o; k and v stay.
    ratio = 0.5 * 2 * whole.hidden_size * whole.widest.attention_size * len(whole.layers)
    ratio = 0.99 * ratio / costs.prunable_parameters(whole)
    choices = PruneOptions(ratio=ratio, units=["queries"], calibration_tokens=1024, **options)
    pruned = prune(str(tiny_model), tmp_path / "out", choices)
    layer = whole.widest
    narrower = replace(layer, num_attention_heads=layer.num_key_value_heads)
    assert layer.q_per_kv == 2 and set(pruned.checkpoint.plan.layers) == {narrower}
    model = AutoModelForCausalLM.from_pretrained(pruned.checkpoint.path)
    assert model(torch.arange(16)[None]).logits.isfinite().all()
