"""The pruned model computes the same as the dense model with the pruned heads and dims zeroed."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.layers import load_layer
from edge_transact.pruning.cut import LayerSelection, pruned_layer, pruned_tensors, top_indices
from edge_transact.widths import LayerWidths, WidthPlan
from tests.support.checkpoints import LLAMA3, MODELS, TINY, save_llama

SHAPES = {
    "mha": {"num_key_value_heads": 6},
    "gqa": {"num_key_value_heads": 3},
    "mqa": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "narrow heads": {"head_dim": 4},
    "llama3": {"head_dim": 16, "rope_parameters": LLAMA3},
    **MODELS,
}


@pytest.fixture(scope="module", params=SHAPES)
def source(request, tmp_path_factory) -> Checkpoint:
    """The dense model; of another family, as ours."""
    dense = Checkpoint.open(save_llama(tmp_path_factory.mktemp("dense"), **SHAPES[request.param]))
    if "model_type" not in SHAPES[request.param]:
        return dense
    tensors = ((name, dense.tensor(name)) for name in dense.tensor_names())
    return write_checkpoint(dense, dense.plan, tensors, {}, tmp_path_factory.mktemp("ours") / "dense")


LOST = ("num_key_value_heads", "intermediate_size")
"""A layer that has none of these has no attention, or no MLP."""


@st.composite
def selections_of(draw, plan: WidthPlan) -> list[LayerSelection]:
    """A random selection of every layer; all keep the same number of query heads per group.

    All but one layer may lose their attention, and all but one their MLP.
    """
    layers = plan.layers
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    queries = draw(st.integers(1, plan.q_per_kv))
    keeps = {name: draw(st.sampled_from([i for i, of in enumerate(layers) if getattr(of, name)])) for name in LOST}

    def some_of(size: int, count: int) -> torch.Tensor:
        return torch.randperm(size, generator=generator)[:count].sort().values

    def some_of_each(groups: torch.Tensor, size: int, count: int) -> torch.Tensor:
        drawn = [some_of(size, count) for _ in groups]
        return torch.stack(drawn) if drawn else torch.empty(0, 0, dtype=torch.int64)

    def select(index: int, layer: LayerWidths) -> LayerSelection:
        most = {name: getattr(layer, name) for name in LOST}
        counts = {name: draw(st.integers(int(keeps[name] == index), size)) for name, size in most.items()}
        groups = some_of(layer.num_key_value_heads, counts["num_key_value_heads"])
        pairs, v_dims = layer.qk_head_dim // 2, draw(st.integers(min(1, layer.v_head_dim), layer.v_head_dim))
        pairs = pairs if plan.use_qk_norm else draw(st.integers(min(1, pairs), pairs))
        return LayerSelection(
            groups=groups,
            queries=some_of_each(groups, layer.q_per_kv, queries),
            qk_pairs=some_of_each(groups, layer.qk_head_dim // 2, pairs),
            v_dims=some_of_each(groups, layer.v_head_dim, v_dims),
            intermediate=some_of(layer.intermediate_size, counts["intermediate_size"]),
        )

    return [select(index, layer) for index, layer in enumerate(layers)]


def zero_all_but(model: torch.nn.Module, layers: tuple[LayerWidths, ...], selections: list[LayerSelection]) -> None:
    """Zeroes the weights of a dense model that `selections` don't keep, head by head and dim by dim."""
    for block, layer, kept in zip(model.model.layers, layers, selections, strict=True):
        attention, half = block.self_attn, layer.qk_head_dim // 2
        of_group = {int(group): row for row, group in enumerate(kept.groups)}
        for head in range(layer.num_attention_heads):
            group, query = divmod(head, layer.q_per_kv)
            row = of_group.get(group)
            columns = attention.o_proj.weight.view(-1, layer.num_attention_heads, layer.v_head_dim)[:, head]
            if row is None or query not in kept.queries[row]:
                columns.zero_()
                continue
            for projection, rows in ((attention.q_proj, head), (attention.k_proj, group)):
                for tensor in projection.parameters():
                    for pair in range(half):
                        if pair not in kept.qk_pairs[row]:
                            tensor[rows * 2 * half + pair] = tensor[rows * 2 * half + half + pair] = 0
            for dim in range(layer.v_head_dim):
                if dim not in kept.v_dims[row]:
                    columns[:, dim] = 0
        for dim in range(layer.intermediate_size):
            if dim not in kept.intermediate:
                block.mlp.down_proj.weight[:, dim] = 0
        for consumer, left in ((attention.o_proj, kept.groups), (block.mlp.down_proj, kept.intermediate)):
            if consumer.bias is not None and not len(left):
                consumer.bias.zero_()  # without the sublayer, it is gone


def prune(source: Checkpoint, selections: list[LayerSelection], output: Path) -> Checkpoint:
    plan = source.plan.with_layers(kept.widths for kept in selections)
    return write_checkpoint(source, plan, pruned_tensors(source, selections), {}, output, force=True)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(48).view(2, 24) * 7 % TINY["vocab_size"]).logits


@settings(max_examples=5)
@given(data=st.data())
def test_same_function_as_the_dense_model_zeroed(source: Checkpoint, tmp_path_factory, data: st.DataObject) -> None:
    """Pruned once and twice: dims keep their RoPE frequencies, and the softmax keeps its scale."""
    first = data.draw(selections_of(source.plan))
    once = prune(source, first, tmp_path_factory.mktemp("once"))
    second = data.draw(selections_of(once.plan))
    twice = prune(once, second, tmp_path_factory.mktemp("twice"))
    both = [kept.then(fewer) for kept, fewer in zip(first, second, strict=True)]
    for pruned, selections in ((once, first), (twice, both)):
        assert pruned.plan.layers == tuple(kept.widths for kept in selections)
        dense = AutoModelForCausalLM.from_pretrained(source.path)
        with torch.no_grad():
            zero_all_but(dense, source.plan.layers, selections)
        expected = logits(dense)
        actual = logits(AutoModelForCausalLM.from_pretrained(pruned.path))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@settings(max_examples=2)
@given(data=st.data())
def test_a_layer_alone_is_the_models(source: Checkpoint, tmp_path_factory, data: st.DataObject) -> None:
    selections = data.draw(selections_of(source.plan))
    pruned = prune(source, selections, tmp_path_factory.mktemp("pruned"))
    model = AutoModelForCausalLM.from_pretrained(pruned.path)
    hidden = torch.randn(2, 11, source.plan.hidden_size)
    angles = model.model.rotary_emb(hidden, torch.arange(11)[None])
    for index, (kept, of_model) in enumerate(zip(selections, model.model.layers, strict=True)):
        layer = load_layer(source, kept.widths, index, pruned_layer(source, index, kept), torch.float32)
        with torch.inference_mode():
            expected = of_model(hidden, position_embeddings=angles)
            torch.testing.assert_close(layer(hidden, position_embeddings=angles), expected)


def test_among_equal_scores_the_first_are_kept() -> None:
    assert top_indices(torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]
    assert top_indices(torch.zeros(1000), 4).tolist() == [0, 1, 2, 3]
