"""The pruned model computes what the dense one does with the pruned dims zeroed."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.prune.selection import LayerSelection, top_indices
from edge_transact.prune.surgery import pruned_tensors
from edge_transact.widths import LayerWidths

SHAPES = {
    "mha": {"num_key_value_heads": 6},
    "gqa": {"num_key_value_heads": 3},
    "mqa": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "narrow heads": {"head_dim": 4},
}


def random_selection(layer: LayerWidths, generator: torch.Generator) -> LayerSelection:
    def some_of(size: int) -> torch.Tensor:
        count = int(torch.randint(1, size + 1, (), generator=generator))
        return torch.randperm(size, generator=generator)[:count].sort().values

    return LayerSelection(groups=some_of(layer.num_key_value_heads), intermediate=some_of(layer.intermediate_size))


def zero_all_but(model: torch.nn.Module, layers, selections) -> None:
    """Hooks that zero the transitional activations which `selections` don't keep."""
    for block, layer, kept in zip(model.model.layers, layers, selections, strict=True):
        groups = torch.zeros(layer.num_key_value_heads, dtype=torch.bool)
        groups[kept.groups] = True
        attention = groups.repeat_interleave(layer.attention_size // layer.num_key_value_heads)
        mlp = torch.zeros(layer.intermediate_size, dtype=torch.bool)
        mlp[kept.intermediate] = True
        for module, mask in ((block.self_attn.o_proj, attention), (block.mlp.down_proj, mlp)):
            module.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_function_as_the_dense_model_zeroed(make_llama, tmp_path: Path, shape: str, seed: int) -> None:
    source = Checkpoint.open(make_llama(seed, **SHAPES[shape]))
    generator = torch.Generator().manual_seed(seed)
    selections = [random_selection(layer, generator) for layer in source.plan.layers]
    plan = source.plan.with_layers(
        LayerWidths(
            num_attention_heads=len(kept.groups) * layer.q_per_kv,
            num_key_value_heads=len(kept.groups),
            qk_head_dim=layer.qk_head_dim,
            v_head_dim=layer.v_head_dim,
            intermediate_size=len(kept.intermediate),
        )
        for layer, kept in zip(source.plan.layers, selections, strict=True)
    )
    write_checkpoint(source, plan, pruned_tensors(source, selections), {}, tmp_path / "pruned")
    dense = AutoModelForCausalLM.from_pretrained(source.path)
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned")
    zero_all_but(dense, source.plan.layers, selections)
    ids = torch.randint(source.plan.vocab_size, (2, 24), generator=generator)
    with torch.inference_mode():
        expected, actual = dense(ids).logits, pruned(ids).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_of_equal_scores_the_first_stay() -> None:
    assert top_indices(torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0]), 3).tolist() == [0, 1, 3]
    assert top_indices(torch.zeros(1000), 4).tolist() == [0, 1, 2, 3]


def test_selections_compose() -> None:
    first = LayerSelection(groups=torch.tensor([1, 3, 4]), intermediate=torch.tensor([0, 2, 5, 9]))
    second = LayerSelection(groups=torch.tensor([0, 2]), intermediate=torch.tensor([1, 3]))
    assert first.then(second).groups.tolist() == [1, 4]
    assert first.then(second).intermediate.tolist() == [2, 9]
