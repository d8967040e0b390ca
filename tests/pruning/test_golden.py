"""The official TransAct code's scores, schedule and kept indices, on its random activations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_transact.pruning.allocate.allocation import next_dims, shot_plans
from edge_transact.pruning.cut import select
from edge_transact.pruning.score.methods.scorer import Activations
from edge_transact.pruning.score.methods.transact import Transact
from edge_transact.pruning.score.salience import SquareSum
from edge_transact.widths import LayerWidths, WidthPlan

DATA = Path(__file__).parents[1] / "data"
CASES = {case["name"]: case for case in json.loads((DATA / "transact_indices.json").read_text())["cases"]}


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "transact_indices.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def widths(heads: int, head_dim: int, mlp: int) -> LayerWidths:
    return LayerWidths(heads, heads, head_dim, head_dim, mlp)


def plan_of(case: dict, layer: LayerWidths) -> WidthPlan:
    return WidthPlan(8, 8, True, False, False, (layer,) * case["layers"])


@pytest.mark.parametrize("name", CASES)
def test_schedule(name: str) -> None:
    case = CASES[name]
    source = plan_of(case, widths(case["heads"], case["head_dim"], case["mlp"]))
    heads = -(-case["target_attention_dims"] // case["head_dim"])
    target = plan_of(case, widths(heads, case["head_dim"], case["target_mlp"]))
    reached = [
        (plan.layers[0].num_attention_heads, plan.layers[0].attention_size, plan.layers[0].intermediate_size)
        for plan in shot_plans(source, target, len(case["shots"]))
    ]
    assert reached == [(s["next_head_num"], s["next_mha_dim"], s["next_mlp_dim"]) for s in case["shots"]]


def test_schedule_of_the_paper() -> None:
    """TransAct-1.3B from LLaMA-2-7B in eight shots."""
    source = WidthPlan(4096, 32000, False, False, False, (widths(32, 128, 11008),))
    target = source.with_layers([widths(6, 128, 1536)])
    plans = list(shot_plans(source, target, 8))
    assert [plan.layers[0].num_attention_heads for plan in plans] == [29, 26, 23, 20, 17, 14, 10, 6]
    assert [plan.layers[0].intermediate_size for plan in plans] == [9824, 8640, 7456, 6272, 5088, 3904, 2720, 1536]


def test_a_share_of_the_way_is_rounded_down() -> None:
    assert [next_dims(60, 25, 2), next_dims(50, 25, 1), next_dims(50, 17, 2)] == [43, 25, 34]


@pytest.mark.parametrize(
    ("name", "shot", "layer"),
    [(n, s, i) for n, case in CASES.items() for s in range(len(case["shots"])) for i in range(case["layers"])],
)
def test_scores_and_kept_indices(arrays, name: str, shot: int, layer: int) -> None:
    case, prefix = CASES[name], f"{name}/{shot}/{layer}/"
    goal = case["shots"][shot]
    attention, mlp = arrays[prefix + "attention"], arrays[prefix + "mlp"]
    scorer = Transact(widths(attention.shape[-1] // case["head_dim"], case["head_dim"], mlp.shape[-1]), layer=None)
    for of_attention, of_mlp in zip(attention, mlp, strict=True):
        # The official code looks at nothing else, so the other inputs don't matter.
        scorer.add(Activations(of_attention, of_mlp, of_mlp, of_mlp, queries=of_attention, keys=of_attention))
    scores = scorer.scores()
    torch.testing.assert_close(scores.intermediate, arrays[prefix + "mlp_score"], rtol=1e-5, atol=0)
    squares = SquareSum()
    squares.add(attention)
    torch.testing.assert_close(squares.norm(), arrays[prefix + "attention_score"], rtol=1e-5, atol=0)

    kept = select(scores, widths(goal["next_head_num"], goal["next_head_dim"], goal["next_mlp_dim"]))
    dims = (kept.groups[:, None] * case["head_dim"] + torch.arange(case["head_dim"])).flatten()
    assert dims.tolist() == arrays[prefix + "kept_attention"].tolist()
    assert kept.intermediate.tolist() == arrays[prefix + "kept_mlp"].tolist()
