"""The search for widths: what a supernet holds, which plans it compares, and that it can be interrupted."""

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
from edge_transact.layerwise.windows import Calibration
from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.compensate.regression import Regression
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.report import figures
from edge_transact.pruning.requirements import requirements
from edge_transact.pruning.run import PruneResult, prune
from edge_transact.pruning.search import loop, space, supernet
from edge_transact.pruning.search.executor import scoring_in
from edge_transact.pruning.search.scoring import Scoring
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.interruption import ended_after, killed_after
from tests.support.pruning import scores_of, weights_of


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
    best = [generation.divergences[0] for generation in result.searched]
    assert [generation.round for generation in result.searched] == [0, 0, 0, 1, 1, 1]
    assert best == sorted(best, reverse=True) and best[-1] < best[0]
    assert result.checkpoint.plan == result.searched[-1].plans[0] and result.provenance["search_generations"] == 4
    assert costs.cut_ratio(result.checkpoint.plan, result.source.plan) >= 0.4


@pytest.mark.parametrize("after", ["supernet-0-1", "search-0-1", "supernet-1-3", "search-1-0"])
def test_an_interrupted_search_finds_the_same(random_model, tmp_path, own_cache, searching, whole, after: str) -> None:
    names, result = whole
    with killed_after(names.index(after) + 1):
        prune(str(random_model), tmp_path / "out", searching)
    again = prune(str(random_model), tmp_path / "out", searching, resume=True)
    assert again.searched == result.searched and weights_of(tmp_path / "out") == weights_of(result.checkpoint.path)


def test_the_page_shows_the_search(whole) -> None:
    _, result = whole
    section = figures.search(result.searched)
    assert len(section.charts) >= 2 and len(section.rows) == len(result.searched)
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


@pytest.fixture(scope="module")
def scoring(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Scoring:
    """On a supernet with every level of the coarse grid around a plan that cuts everything."""
    source, draw = Checkpoint.open(random_model), torch.Generator().manual_seed(0)
    windows, held_out = torch.randint(0, 1024, (12, 64), generator=draw).split(8)
    model, journal = LayerwiseModel(source, windows), Journal(tmp_path_factory.mktemp("supernet"))
    scores, grid = scores_of(source, windows, "transact"), space.coarse(source.plan, halved(source.plan), 8)
    supernet.solve(model, scores, grid, journal, "supernet")
    files = [journal.file(supernet.group("supernet", index)) for index in range(len(grid))]
    return Scoring(random_model, files, scores, held_out)


def halved(plan: WidthPlan) -> WidthPlan:
    return plan.with_layers(
        replace(layer, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48) for layer in plan.layers
    )


@pytest.mark.slow
def test_a_plan_scores_the_same_alone_and_among_others_and_in_other_processes(scoring: Scoring, monkeypatch) -> None:
    source = Checkpoint.open(scoring.source).plan
    one = source.with_layers([*source.layers[:2], *halved(source).layers[2:]])
    plans = [halved(source), one, source]
    alone = [score for plan in plans for score in scoring.divergences([plan], 256)]
    assert scoring.divergences(plans, 256) == alone
    assert alone[0] > alone[1] > alone[2] == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr("edge_transact.pruning.search.executor.workers", lambda: 2)
    with scoring_in("processes", scoring) as scored:
        assert [score for of_job in scored([(plans[:2], 256), (plans[2:], 256)]) for score in of_job] == alone


def test_the_better_of_two_plans_survives(scoring: Scoring) -> None:
    source = Checkpoint.open(scoring.source).plan
    best, worse = source.with_layers([*source.layers[:3], halved(source).layers[3]]), halved(source)
    evolution = loop._Evolution(None, lambda jobs: (scoring.divergences(*job) for job in jobs), 256)
    assert [plan for plan, _ in evolution._ranked([worse, best], 256)] == [best, worse]


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


def test_windows_are_split_evenly() -> None:
    text = Calibration(torch.arange(12)[:, None].expand(12, 4), (), "joined", 0)
    kept, held_out = text.split(12)
    assert held_out[:, 0].tolist() == [2, 6, 10] and len(kept) == 9
    with pytest.raises(UsageError, match="a single window"):
        Calibration(torch.zeros(1, 4), (), "joined", 0).split(4)


def test_what_a_search_needs(calibration: dict) -> None:
    with pytest.raises(UsageError, match="--search where the widths are named"):
        PruneOptions(heads=3, search=True)
    with pytest.raises(UsageError, match="nothing compensates"):
        prune("demo:tiny", Path("out"), PruneOptions(ratio=0.3, search=True, method="transact"))
    assert PruneOptions(ratio=0.3, search_on="ray").identity() == PruneOptions(ratio=0.3).identity()
