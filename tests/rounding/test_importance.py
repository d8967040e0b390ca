"""The sizes of a model's inputs without text: against transformers, and what damaged or dead weights do."""

import pytest
import torch

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD
from edge_transact.rounding import importance
from edge_transact.rounding.importance import FLOOR, TOKENS, InputImportance


def test_it_is_the_mean_square_of_what_transformers_computes(checkpoint, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(importance, "BLOCK_WEIGHTS", 1000)  # several blocks a matrix
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
    inputs = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _module, args, name=name: inputs.update({f"{name}.weight": args[0][0]})
            )
    ids = torch.randint(checkpoint.plan.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(ids)
    if checkpoint.plan.tie_word_embeddings:
        inputs[EMBEDDING] = inputs.pop(LM_HEAD)
    importance_of = InputImportance(checkpoint)
    assert set(inputs) == {name for name in checkpoint.tensor_names() if len(checkpoint.shape(name)) == 2} - (
        set() if checkpoint.plan.tie_word_embeddings else {EMBEDDING}
    ) - {name for name in checkpoint.tensor_names() if "rope" in name}
    for name in reversed(inputs):  # in any order
        squares = inputs[name].square().mean(dim=0)
        expected = (squares / squares.mean()).clamp_min(FLOOR)
        torch.testing.assert_close(importance_of(name), expected, rtol=1e-4, atol=1e-5)


def test_an_embedding_that_is_only_read_has_no_inputs(make_llama):
    checkpoint = Checkpoint.open(make_llama())
    assert torch.equal(InputImportance(checkpoint)(EMBEDDING), torch.ones(checkpoint.plan.hidden_size))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_what_cannot_be_measured_counts_alike(make_llama, tmp_path, bad):
    """Rounding a damaged matrix names it; the importance doesn't stand in the way."""
    source = Checkpoint.open(make_llama())
    tensors = {name: source.tensor(name).clone() for name in source.tensor_names()}
    tensors["model.layers.0.self_attn.v_proj.weight"][:] = bad
    checkpoint = write_checkpoint(source, source.plan, tensors.items(), {}, tmp_path / "bad")
    importance_of = InputImportance(checkpoint)
    assert not torch.equal(importance_of("model.layers.0.self_attn.v_proj.weight"), torch.ones(64))
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(importance_of(name), torch.ones(checkpoint.shape(name)[1]))
