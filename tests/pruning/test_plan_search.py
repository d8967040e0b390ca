"""The search for widths: what a supernet holds, which plans it compares, and that it can be interrupted."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact import costs
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import UsageError
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.windows import split
from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.compensate.regression import Regression
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.report import search_section
from edge_transact.pruning.requirements import requirements
from edge_transact.pruning.run import PruneResult, prune
from edge_transact.pruning.search import loop, space, supernet
from edge_transact.pruning.search.executor import scoring_in
from edge_transact.pruning.search.scoring import PIECES, SEARCHED, UNSEEN, Scoring, compared_texts
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.interruption import ended_after, killed_after
from tests.support.pruning import cut_at_random, scores_of, weights_of


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_transact.pruning.search.executor.workers", lambda: 1)


@pytest.fixture(scope="module")
def searching(calibration: dict) -> PruneOptions:
    return PruneOptions(ratio=0.4, bucket=8, search=True, search_generations=4, search_tokens=256, **calibration)


@pytest.fixture(scope="module")
def whole(random_model: Path, tmp_path_factory: pytest.TempPathFactory, searching) -> tuple[list[str], PruneResult]:
    """What a search writes to the journal, in order, and its result."""
    with pytest.MonkeyPatch.context() as patched, ended_after(10**6) as names:
        patched.setattr("edge_transact.pruning.search.executor.workers", lambda: 1)
        return names, prune(str(random_model), tmp_path_factory.mktemp("whole") / "out", searching, fresh=True)


def test_a_search_lowers_the_divergence_within_the_limits(whole) -> None:
    _, result = whole
    best = [generation.ranking[0][1] for generation in result.searched.generations]
    assert [generation.round for generation in result.searched.generations] == [0, 0, 0, 1, 1, 1]
    assert best == sorted(best, reverse=True) and best[-1] < best[0]
    assert result.checkpoint.plan == result.searched.best and result.provenance["search_generations"] == 4
    assert costs.cut_ratio(result.checkpoint.plan, result.source.plan) >= 0.4 and result.searched.note() in result.notes


def test_an_overfitted_plan_is_not_taken(random_model, tmp_path, own_cache, searching, monkeypatch) -> None:
    read = []

    def overfitted(_scoring: Scoring, plans: list[WidthPlan], text: str) -> list[float]:
        """The narrower the first MLP, the better on all text that generations see, and the worse on the other."""
        read.extend([text] if text not in read[-1:] else [])
        sizes = [plan.layers[0].intermediate_size for plan in plans]
        return [1000.0 - size if text == UNSEEN else size for size in sizes]

    monkeypatch.setattr(Scoring, "divergences", overfitted)
    result = prune(str(random_model), tmp_path / "out", searching)
    start, (found, _) = result.searched.start, result.searched.generations[-1].ranking[0]
    assert found.layers[0].intermediate_size < start.layers[0].intermediate_size
    assert result.checkpoint.plan == result.searched.best == start
    assert "kept its first plan" in result.notes[-1] and len(result.notes) > 1
    assert all(
        f"{of[start]:.3f} → {of[found]:.3f}" in result.notes[-1]
        for of in vars(result.searched).values()
        if isinstance(of, dict)
    )
    of_round = [SEARCHED, "piece-1", SEARCHED, "piece-2", SEARCHED, UNSEEN]
    assert read == of_round * 2, "each generation begins with another piece"


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=2, max_size=7))
def test_no_plan_wins_that_is_worse_on_unseen_text(losses: list[tuple[float, float]]) -> None:
    layer = LayerWidths(8, 4, 16, 16, 128)
    plans = [WidthPlan(64, 128, True, False, False, (replace(layer, intermediate_size=1 + n),)) for n in range(7)]
    searched, unseen = (dict(zip(plans, of_text, strict=False)) for of_text in zip(*losses, strict=True))
    start, *others = searched
    last = loop.Generation(1, sorted(((plan, searched[plan]) for plan in others), key=lambda scored: scored[1]))
    found = loop.Found([last], start, searched, unseen)
    wins = [plan for plan in others if unseen[plan] < unseen[start]]
    assert found.best == start or found.best in wins
    assert all(searched[found.best] + unseen[found.best] <= searched[plan] + unseen[plan] for plan in [start, *wins])


def test_pieces_take_turns_and_some_text_stays_unseen() -> None:
    held_out = torch.arange(16 * 512).view(16, 512)
    texts = compared_texts(held_out)
    searched, unseen, *pieces = texts.values()
    assert len(searched) == 12 and len(unseen) == 4 and len(pieces) == PIECES
    assert torch.equal(torch.cat([searched, unseen]).flatten().sort()[0], held_out.flatten())
    assert torch.equal(torch.cat(pieces).flatten().sort()[0], searched.flatten())
    assert all(len((piece // 512).unique()) == len(piece) == 6 for piece in pieces), "spread over the text"
    few = compared_texts(held_out[:2, :64])
    assert all(torch.equal(few[text], few[SEARCHED]) for text in few if text != UNSEEN)


@pytest.mark.parametrize(
    "after",
    [
        *("supernet-0-1", "search-1-0"),
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("search-0-1", "search-0-unseen", "supernet-1-3", "search-1-2")
        ),
    ],
)
def test_an_interrupted_search_finds_the_same(random_model, tmp_path, own_cache, searching, whole, after: str) -> None:
    names, result = whole
    with killed_after(names.index(after) + 1):
        prune(str(random_model), tmp_path / "out", searching)
    again = prune(str(random_model), tmp_path / "out", searching, resume=True)
    assert again.searched == result.searched and weights_of(tmp_path / "out") == weights_of(result.checkpoint.path)


def test_the_page_shows_the_search(whole) -> None:
    _, result = whole
    section = search_section(result.searched)
    assert len(section.charts) >= 2 and len(section.rows) == len(result.searched.generations)
    assert result.searched.note() in section.text
    assert "nats a token" in section.charts[0].svg("search")


def test_requirements_say_what_a_search_takes(random_model: Path, searching) -> None:
    source = Checkpoint.open(random_model)
    with_it, without = (
        requirements(source, searching.model_copy(update={"search": search})) for search in (True, False)
    )
    assert with_it.tokens - without.tokens == 256 and with_it.disk_bytes > without.disk_bytes
    assert [step for step in with_it.steps if step not in without.steps] == [loop.STEP]


def test_a_narrowed_regression_is_that_of_the_inputs_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, kept, narrow = torch.randn(6, 20, generator=draw), torch.tensor([1, 4, 7, 12, 19]), None
    whole, narrow = Regression(weight), Regression(weight[:, kept])
    for held_out in (False, False, True):
        inputs, missing = torch.randn(50, 20, generator=draw), torch.randn(50, 6, generator=draw)
        tokens = torch.rand(50, 1, generator=draw)
        lost = missing + inputs @ weight.T - inputs[:, kept] @ weight[:, kept].T
        whole.add(inputs, missing, tokens, held_out=held_out)
        narrow.add(inputs[:, kept], lost, tokens, held_out=held_out)
    (expected, fit), (found, of_narrowed) = narrow.solve(), whole.narrowed(kept).solve()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert of_narrowed.damping == fit.damping and of_narrowed.error_after == pytest.approx(fit.error_after, rel=1e-4)


@pytest.mark.soak
def test_several_processes_find_the_same(random_model, tmp_path, own_cache, searching, whole, monkeypatch) -> None:
    _, result = whole
    monkeypatch.setattr("edge_transact.pruning.search.executor.workers", lambda: 2)
    others = prune(str(random_model), tmp_path / "out", searching)
    assert others.searched == result.searched and others.checkpoint.plan == result.checkpoint.plan


def scoring_of(source: Checkpoint, start: WidthPlan, method: str = "transact") -> Scoring:
    """On a supernet with every level of the coarse grid around a plan."""
    windows, held_out = torch.randint(0, 1024, (12, 64), generator=torch.Generator().manual_seed(0)).split(8)
    model, journal = LayerwiseModel(source, windows), Journal(Path(tempfile.mkdtemp(dir=source.path.parent)))
    scores, grid = scores_of(source, windows, method), space.coarse(source.plan, start, 8, ["groups", "mlp"])
    supernet.solve(model, scores, grid, journal, "supernet")
    files = [journal.file(supernet.group("supernet", index)) for index in range(len(grid))]
    return Scoring(source.path, files, scores, compared_texts(held_out))


@pytest.fixture(scope="module")
def scoring(random_model: Path) -> Scoring:
    source = Checkpoint.open(random_model)
    return scoring_of(source, halved(source.plan))


@pytest.mark.parametrize("method", ["transact", "obs"])
def test_plans_that_lost_whole_modules_and_queries_are_scored(random_model: Path, tmp_path: Path, method: str) -> None:
    whole = Checkpoint.open(random_model)
    first, second, third, fourth = whole.plan.layers
    layers = [first, second, replace(third, intermediate_size=0), LayerWidths(0, 0, 0, 0, fourth.intermediate_size)]
    source, narrow = cut_at_random(whole, layers, tmp_path / "pruned"), LayerWidths(2, 2, 8, 8, 48)
    start = source.plan.with_layers(
        [narrow, LayerWidths(0, 0, 0, 0, 48), replace(narrow, intermediate_size=0), layers[3]]
    )
    scoring = scoring_of(source, start, method)
    wider = [narrow, replace(second, num_attention_heads=second.num_key_value_heads), *start.layers[2:]]
    plans = [start, start.with_layers(wider)]
    of_start, of_wider = scoring.divergences(plans, SEARCHED)
    assert 0 < of_wider < of_start and scoring.divergences([source.plan], SEARCHED) == pytest.approx([0], abs=1e-6)


def halved(plan: WidthPlan) -> WidthPlan:
    return plan.with_layers(
        replace(layer, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48) for layer in plan.layers
    )


@pytest.mark.soak
def test_a_plan_scores_the_same_alone_and_among_others_and_in_other_processes(scoring: Scoring, monkeypatch) -> None:
    source = Checkpoint.open(scoring.source).plan
    one = source.with_layers([*source.layers[:2], *halved(source).layers[2:]])
    plans = [halved(source), one, source]
    alone = [score for plan in plans for score in scoring.divergences([plan], SEARCHED)]
    assert scoring.divergences(plans, SEARCHED) == alone
    assert alone[0] > alone[1] > alone[2] == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr("edge_transact.pruning.search.executor.workers", lambda: 2)
    with scoring_in("processes", scoring) as scored:
        assert [score for of_job in scored([(plans[:2], SEARCHED), (plans[2:], SEARCHED)]) for score in of_job] == alone


def test_the_better_of_two_plans_survives(scoring: Scoring) -> None:
    source = Checkpoint.open(scoring.source).plan
    best, worse = source.with_layers([*source.layers[:3], halved(source).layers[3]]), halved(source)
    evolution = loop._Evolution(None, lambda jobs: (scoring.divergences(*job) for job in jobs))
    assert [plan for plan, _ in evolution.ranked([worse, best], SEARCHED)] == [best, worse]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_plan_exceeds_a_limit_and_nothing_more_would_fit(data: st.DataObject) -> None:
    source = WidthPlan(64, 128, True, False, False, (LayerWidths(8, 4, 16, 16, 128),) * 3)
    start = source.with_layers([LayerWidths(6, 3, 16, 16, 64), LayerWidths(8, 4, 16, 16, 32), source.layers[2]])
    drops = data.draw(st.sets(st.sampled_from(["mlp", "groups"])))
    bound = data.draw(st.integers(costs.parameters(start), costs.parameters(source) - 1))
    cached = partial(costs.kv_bytes_per_token, quantization=get_quantization("q4f16_0"))
    limits = [Limit("parameters", bound, costs.parameters, ""), Limit("cache", cached(start), cached, "")]
    within = space.Space(source, space.coarse(source, start, 8, drops), limits)
    random = Random(data.draw(st.integers(0, 99)))
    plan = start
    for _ in range(5):
        plan = within.mutated(plan, random)
        assert all(limit.holds(plan) for limit in limits)
        for index, axes in enumerate(within.grid):
            for unit in axes:
                wider = within._moved(plan, index, unit, 1)
                assert wider == plan or not all(limit.holds(wider) for limit in limits)


@st.composite
def narrowed(draw: st.DrawFn, plan: WidthPlan) -> WidthPlan:
    """A plan within another: any widths that an allocation may give, layers without attention or MLP among them."""
    queries, cuts = draw(st.integers(1, plan.q_per_kv)), draw(st.sets(st.sampled_from(["groups", "qk", "v", "mlp"])))

    def width(name: str, full: int, step: int, *others: int) -> int:
        return draw(st.sampled_from([*others, *(range(step, full, step) if name in cuts else ()), full])) if full else 0

    def layer(whole: LayerWidths, *gone: int) -> LayerWidths:
        groups, mlp = (
            width("groups", whole.num_key_value_heads, 1, *gone),
            width("mlp", whole.intermediate_size, 8, *gone),
        )
        qk, v = width("qk", whole.qk_head_dim, 8), width("v", whole.v_head_dim, 8)
        return LayerWidths(groups * queries, groups, qk, v, mlp)

    first, *others = plan.layers
    return plan.with_layers([layer(first), *(layer(whole, 0) for whole in others)])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_supernet_has_every_module_of_every_plan_that_a_search_reaches(data: st.DataObject) -> None:
    source = data.draw(narrowed(WidthPlan(64, 128, True, False, False, (LayerWidths(8, 4, 32, 32, 128),) * 3)))
    plan = start = data.draw(narrowed(source))
    random, grid = Random(data.draw(st.integers(0, 99))), space.coarse(source, start, 8, ["groups", "mlp"])
    for part in loop.PARTS:
        grid = grid if part == loop.PARTS[0] else space.fine(source, plan, 8, grid, part)
        within = space.Space(source, grid, [Limit("parameters", costs.parameters(start), costs.parameters, "")])
        plans = [plan, within.fitted(plan, random)]
        plans += [within.mutated(random.choice(plans), random) for _ in range(3)]
        for index, layer in enumerate(source.layers):
            for module, solved in supernet.levels_of(layer, grid[index]).items():
                known = {supernet.level(module, each) for each in [*solved, layer]}
                reached = [plan.layers[index] for plan in plans]
                assert {supernet.level(module, own) for own in reached if not supernet.lacks(module, own)} <= known
        assert {each.q_per_kv for each in plans} == {start.q_per_kv}
        plan = random.choice(plans)


def test_windows_are_split_evenly() -> None:
    kept, held_out = split(torch.arange(12)[:, None].expand(12, 4), 12)
    assert held_out[:, 0].tolist() == [2, 6, 10] and len(kept) == 9
    with pytest.raises(UsageError, match="a single window"):
        split(torch.zeros(1, 4), 4)


def test_what_a_search_needs(calibration: dict) -> None:
    with pytest.raises(UsageError, match="--search where the widths are named"):
        PruneOptions(heads=3, search=True)
    with pytest.raises(UsageError, match="nothing compensates"):
        prune("demo:tiny", Path("out"), PruneOptions(ratio=0.3, search=True, method="transact"))
    assert PruneOptions(ratio=0.3, search_on="ray").identity() == PruneOptions(ratio=0.3).identity()
