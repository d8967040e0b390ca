"""Value heads that are rotated before they are cut: the best subspace, and the same function when none is cut."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.pruning.cut import LayerSelection, pruned_layer, pruned_tensors, select
from edge_transact.pruning.rotation import SHRINKAGE, Rotation, best_rotation, damped
from edge_transact.widths import LayerWidths
from tests.support.checkpoints import TINY
from tests.support.pruning import everything, scores_of

SHAPES = {
    "gqa": {},
    "mha": {"num_key_value_heads": 6},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"model_type": "qwen2"},
}
# More than one batch of the passes.
WINDOWS = torch.randint(96, (70, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=SHAPES)
def source(make_llama, request) -> Checkpoint:
    return Checkpoint.open(make_llama(num_hidden_layers=2, **SHAPES[request.param]))


def random_maps(groups: int, kept: int, dims: int, draw: torch.Generator) -> Rotation:
    """Maps to `kept` dims, and back from them."""
    into = torch.randn(groups, dims, dims, generator=draw) + 2 * torch.eye(dims)
    return Rotation(into[:, :kept], torch.linalg.inv(into.double()).float()[:, :, :kept])


def logits(path: Path) -> torch.Tensor:
    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(path)(WINDOWS[:2] % TINY["vocab_size"]).logits


def written(source: Checkpoint, selections: list[LayerSelection], path: Path) -> Checkpoint:
    plan = source.plan.with_layers(kept.widths for kept in selections)
    return write_checkpoint(source, plan, pruned_tensors(source, selections), {}, path)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32), groups=st.integers(1, 3), queries=st.integers(1, 3), dims=st.integers(2, 5),
    dead=st.booleans(),
)  # fmt: skip
def test_the_first_dims_lose_the_least(seed: int, groups: int, queries: int, dims: int, dead: bool) -> None:
    """What Eckart and Young's theorem says, by NumPy's SVD; and no choice of dims as they are loses less.

    Of correlated values, whose energies differ by thousands, even if the projection is solved again.
    """
    draw = np.random.default_rng(seed)
    mixing = draw.normal(size=(groups, dims, dims)) * np.logspace(0, -3, dims)
    if dead:
        mixing[:, 0] = 0
    moments = damped(torch.from_numpy(mixing @ mixing.transpose(0, 2, 1)))
    weight = draw.normal(size=(4, groups, queries, dims))
    effects = torch.from_numpy(weight.transpose(1, 2, 3, 0).reshape(-1, 4)).float()
    rotation, losses = best_rotation(moments, effects)
    moments = moments + SHRINKAGE * torch.diag_embed(moments.diagonal(dim1=1, dim2=2))
    for group in range(groups):
        of_heads = weight[:, group].transpose(1, 0, 2).reshape(-1, dims)  # the query heads' weights, stacked
        energies, vectors = np.linalg.eigh(moments[group].numpy())
        root = vectors * np.sqrt(energies) @ vectors.T
        expected = np.linalg.svd(of_heads @ root, compute_uv=False) ** 2
        scale = expected.sum()
        np.testing.assert_allclose(losses[group, : len(expected)], expected, rtol=1e-4, atol=1e-6 * scale)
        for kept in range(dims + 1):
            first = rotation.chosen(torch.tensor([group]), torch.arange(kept)[None])
            projector = (first.back @ first.into)[0].double().numpy()
            lost = np.square(of_heads @ (np.eye(dims) - projector) @ root).sum()
            assert lost == pytest.approx(expected[kept:].sum(), rel=1e-3, abs=1e-5 * scale)
            for stay in map(list, combinations(range(dims), kept)):
                solved = np.zeros((len(of_heads), dims))
                solved[:, stay] = np.linalg.lstsq(root[stay].T, (of_heads @ root).T, rcond=None)[0].T
                assert lost <= np.square((of_heads - solved) @ root).sum() * (1 + 1e-4) + 1e-5 * scale


def test_other_dims_of_a_subspace_keep_it() -> None:
    draw = torch.Generator().manual_seed(0)
    first = random_maps(2, 3, 5, draw)
    other = first.orthonormal()
    torch.testing.assert_close(other.back @ other.into, first.back @ first.into)
    torch.testing.assert_close(other.into @ other.into.mT, torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(other.into @ other.back, torch.eye(3).expand(2, 3, 3))


def test_rotated_values_compute_the_same(source: Checkpoint, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    groups, dims = source.plan.widest.num_key_value_heads, source.plan.widest.v_head_dim
    rotated = [replace(whole, rotation=random_maps(groups, dims, dims, draw)) for whole in everything(source)]
    result = written(source, rotated, tmp_path / "rotated")
    assert result.plan.layers == source.plan.layers
    for part in ("v_proj", "o_proj"):
        name = f"model.layers.0.self_attn.{part}.weight"
        assert not torch.allclose(result.tensor(name), source.tensor(name), rtol=0.1)
    same(logits(result.path), logits(source.path))


@pytest.mark.parametrize("rotates", [(True, True), (False, True), (True, False)])
def test_cuts_after_cuts_are_one_cut(make_llama, tmp_path: Path, rotates: tuple[bool, bool]) -> None:
    """Rotated or not; the second cut takes a KV group, query heads and dims of those that the first one left."""
    source = Checkpoint.open(make_llama(num_attention_heads=6, num_key_value_heads=3, attention_bias=True))
    draw = torch.Generator().manual_seed(0)

    def cut(layer: LayerWidths, groups: list[int], queries: int, dims: int, *, rotated: bool) -> LayerSelection:
        whole, count = LayerSelection.everything(layer), len(groups)
        v_dims = [torch.randperm(layer.v_head_dim, generator=draw)[:dims].sort().values for _ in groups]
        return replace(
            whole,
            groups=torch.tensor(groups),
            queries=whole.queries[:count, -queries:],
            qk_pairs=whole.qk_pairs[:count],
            v_dims=whole.v_dims[:count] if rotated else torch.stack(v_dims),
            rotation=random_maps(count, dims, layer.v_head_dim, draw) if rotated else None,
        )

    first = [cut(layer, [0, 1, 2], 2, 6, rotated=rotates[0]) for layer in source.plan.layers]
    once = written(source, first, tmp_path / "once")
    second = [cut(layer, [0, 2], 1, 3, rotated=rotates[1]) for layer in once.plan.layers]
    twice = written(once, second, tmp_path / "twice")
    both = written(source, [a.then(b) for a, b in zip(first, second, strict=True)], tmp_path / "both")
    assert both.plan.layers == twice.plan.layers and twice.plan.widest.v_head_dim == 3
    for name in twice.tensor_names():
        torch.testing.assert_close(both.tensor(name), twice.tensor(name), rtol=1e-4, atol=1e-5)
    same(logits(both.path), logits(twice.path))


@pytest.mark.parametrize("method", ["obs", "wanda", "flap"])
def test_a_models_values_keep_their_best_subspace(source: Checkpoint, method: str, tmp_path: Path) -> None:
    """Each method's metric, from the complete model's activations in fp64; whole heads and other units stay."""
    layer = source.plan.layers[0]
    groups, queries, dims = layer.num_key_value_heads, layer.q_per_kv, layer.v_head_dim
    scores = scores_of(source, WINDOWS, method)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float64)
    o_proj, seen = model.model.layers[0].self_attn.o_proj, {}
    o_proj.register_forward_hook(lambda _, inputs, output: seen.update(z=inputs[0], y=output))
    result = model(WINDOWS).logits[:, :-1].flatten(end_dim=1)
    seen["y"].retain_grad()
    torch.nn.functional.cross_entropy(result, WINDOWS[:, 1:].flatten(), reduction="sum").backward()
    z, weight = seen["z"].detach().flatten(end_dim=1), o_proj.weight.detach()
    gradients = seen["y"].grad.flatten(end_dim=1)
    metric = torch.eye(len(weight), dtype=torch.float64)
    if method == "obs":
        metric = gradients.T @ gradients / (2 * len(z))
        z = z * gradients.norm(dim=1, keepdim=True) / gradients.square().sum().sqrt()
    elif method == "flap":
        z = (z - z.mean(dim=0)) / len(z) ** 0.5
    heads = z.view(len(z), groups, queries, dims)
    for group in range(groups):
        moments = sum(heads[:, group, query].T @ heads[:, group, query] for query in range(queries))
        moments = moments + ((1 + SHRINKAGE) * 1.01 - 1) * moments.diagonal().diag()
        columns = weight.view(-1, groups, queries, dims)[:, group]
        counts = sum(columns[:, query].T @ metric @ columns[:, query] for query in range(queries))
        expected = torch.linalg.eigvals(moments @ counts).real.sort(descending=True).values
        torch.testing.assert_close(scores[0].v_dims[group].double(), expected, rtol=1e-3, atol=1e-5 * expected[0])
    whole = LayerSelection.everything(layer)
    narrower = select(scores[0], replace(layer, intermediate_size=layer.intermediate_size - 3))
    assert narrower.rotation is None and torch.equal(narrower.v_dims, whole.v_dims)
    for name, tensor in pruned_layer(source, 0, narrower).items():
        assert name.startswith("mlp.") or torch.equal(tensor, source.tensor(f"model.layers.0.{name}"))
    cut = select(scores[0], replace(layer, v_head_dim=dims - 3))
    assert cut.rotation is not None and cut.widths == replace(layer, v_head_dim=dims - 3)
    for name, tensor in pruned_layer(source, 0, cut).items():
        assert "v_proj" in name or "o_proj" in name or torch.equal(tensor, source.tensor(f"model.layers.0.{name}"))


def test_rotated_values_are_nearer_to_the_source(make_llama, tmp_path: Path) -> None:
    """Than the best dims as they are, by the published scores and by the sums that rotation replaced."""
    source = Checkpoint.open(make_llama())
    layers = [replace(layer, v_head_dim=4) for layer in source.plan.layers]
    expected, distances = logits(source.path), {}
    for method in ("obs", "wanda", "flap", "transact"):
        scores = scores_of(source, WINDOWS, method)
        kept = [select(of_layer, layer) for of_layer, layer in zip(scores, layers, strict=True)]
        assert all((of_layer.rotation is None) == (method == "transact") for of_layer in kept)
        distances[method] = float((logits(written(source, kept, tmp_path / method).path) - expected).norm())
    assert max(distances[method] for method in ("obs", "wanda", "flap")) < 0.9 * distances["transact"]
