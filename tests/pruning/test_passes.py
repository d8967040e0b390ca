"""Scores computed layer by layer equal those of the complete model in transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.pruning.cut import LayerSelection, pruned_tensors
from tests.support.checkpoints import LLAMA3
from tests.support.pruning import scores_of

WINDOWS = torch.randint(96, (5, 32), generator=torch.Generator().manual_seed(0))


def norms_of_the_whole_model(path: Path) -> list[dict[str, torch.Tensor]]:
    """For each layer, the L2 norms of `o_proj`'s and `down_proj`'s inputs, in fp64, by hooks on the loaded model."""
    model = AutoModelForCausalLM.from_pretrained(path)
    seen: list[dict[str, torch.Tensor]] = [{} for _ in model.model.layers]
    for norms, layer in zip(seen, model.model.layers, strict=True):
        for name, module in (("attention", layer.self_attn.o_proj), ("mlp", layer.mlp.down_proj)):
            module.register_forward_pre_hook(
                lambda _, inputs, norms=norms, name=name: norms.update(
                    {name: inputs[0].double().square().sum(dim=(0, 1)).sqrt()}
                )
            )
    with torch.inference_mode():
        model(WINDOWS)
    return seen


@pytest.mark.parametrize(
    "config",
    [{}, {"num_key_value_heads": 1}, {"attention_bias": True, "mlp_bias": True}, {"rope_parameters": LLAMA3}],
    ids=str,
)
def test_scores_of_the_dense_model(make_llama, config) -> None:
    source = Checkpoint.open(make_llama(**config))
    measured = scores_of(source, WINDOWS, "transact")
    for scores, norms in zip(measured, norms_of_the_whole_model(source.path), strict=True):
        heads = norms["attention"].view(source.plan.layers[0].num_attention_heads, -1)
        expected = heads.mean(dim=1) + 10 / heads.shape[1] * heads.max(dim=1).values
        torch.testing.assert_close(scores.heads, expected.float(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(scores.intermediate, norms["mlp"].float(), rtol=1e-4, atol=1e-6)


def test_later_shots_see_the_model_that_is_left(make_llama, tmp_path: Path) -> None:
    source = Checkpoint.open(make_llama())
    kept = LayerSelection(
        groups=torch.tensor([0, 2]),
        queries=torch.tensor([[0], [1]]),
        qk_pairs=torch.tensor([[0, 1, 3], [1, 2, 3]]),
        v_dims=torch.tensor([[0, 1, 2, 3, 7], [1, 3, 5, 6, 7]]),
        intermediate=torch.tensor([1, 5, 7, 30]),
    )
    selections = [kept] * source.plan.num_hidden_layers
    plan = source.plan.with_layers([kept.widths] * source.plan.num_hidden_layers)
    write_checkpoint(source, plan, pruned_tensors(source, selections), {}, tmp_path / "pruned")
    measured = scores_of(source, WINDOWS, "transact", selections)
    for scores, norms in zip(measured, norms_of_the_whole_model(tmp_path / "pruned"), strict=True):
        torch.testing.assert_close(scores.intermediate, norms["mlp"].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fast_bf16", [False, True])
def test_bf16_is_scored_like_fp32(make_llama, monkeypatch, fast_bf16: bool) -> None:
    """On CPUs that multiply bf16 faster than fp32, and on others, which compute in fp32."""
    monkeypatch.setattr("edge_transact.system.computation.has_fast_bf16", lambda: fast_bf16)
    path = make_llama()
    exact = scores_of(Checkpoint.open(path), WINDOWS, "transact")
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(path)
    for scores, expected in zip(scores_of(Checkpoint.open(path), WINDOWS, "transact"), exact, strict=True):
        assert scores.heads.dtype == scores.intermediate.dtype == torch.float32
        torch.testing.assert_close(scores.intermediate, expected.intermediate, rtol=0.1, atol=0.02)
