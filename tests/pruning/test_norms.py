"""Norms that are trained after compensation: against transformers' autograd, and on windows that weren't read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.compensate import norms
from edge_transact.pruning.compensate.regression import held_out_of
from edge_transact.pruning.cut import LayerSelection, cut_layer, pruned_tensors
from tests.support.interruption import killed_after, write_every_state
from tests.support.pruning import everything

WINDOWS = torch.randint(96, (16, 32), generator=torch.Generator().manual_seed(0))

CUTS = {
    "mlp": {"intermediate": torch.arange(0, 40, 2)},
    "no attention": {
        "groups": torch.empty(0, dtype=torch.int64),
        "queries": torch.empty(0, 1, dtype=torch.int64),
        "qk_pairs": torch.empty(0, 4, dtype=torch.int64),
        "v_dims": torch.empty(0, 8, dtype=torch.int64),
    },
}


def pruned(source: Checkpoint, cut: str) -> list[LayerSelection]:
    """Every layer keeps half of its MLP, or the first one loses its attention."""
    return (
        [replace(whole, **CUTS["mlp"]) for whole in everything(source)]
        if cut == "mlp"
        else [replace(everything(source)[0], **CUTS[cut]), *everything(source)[1:]]
    )


@torch.no_grad()
def source_states(model: LayerwiseModel, directory: Path) -> torch.Tensor:
    hidden = model.embeddings(Journal(directory))
    for index, selection in enumerate(everything(model.checkpoint)):
        hidden = model.run(cut_layer(model, index, selection), hidden)
    return hidden


def divergence(source: Path, other: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """The mean divergence of transformers' predictions from those of the source, nats a token."""
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(source)(windows).logits.log_softmax(-1)
    found = other(windows).logits.log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean()


@pytest.fixture(params=CUTS)
def case(request, make_llama, tmp_path: Path):
    """A model, what is kept of it, and the pruned model in transformers."""
    register()
    path = make_llama()
    source = Checkpoint.open(path)
    selections = pruned(source, request.param)
    plan = source.plan.with_layers(of.widths for of in selections)
    written = write_checkpoint(source, plan, pruned_tensors(source, selections), {}, tmp_path / "cut")
    model = LayerwiseModel(source, WINDOWS)
    return model, selections, source_states(model, tmp_path / "states"), path, written


def test_gradients_are_those_of_autograd(case, tmp_path: Path) -> None:
    model, selections, states, path, written = case
    reference = AutoModelForCausalLM.from_pretrained(written.path)
    divergence(path, reference, WINDOWS[:5]).backward()
    training = norms._Training(model, selections, states, Journal(tmp_path / "journal"))
    with torch.no_grad():
        found = dict(zip(training.names, training.gradient(torch.arange(5)), strict=True))
    expected = {name: value.grad for name, value in reference.named_parameters() if name.endswith("norm.weight")}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-7)


def test_the_divergence_falls_on_windows_that_were_not_read(case, tmp_path: Path) -> None:
    """What the fit says is what transformers measures, before and after."""
    model, selections, states, path, written = case
    weights, fit = norms.train_norms(model, selections, states, Journal(tmp_path / "journal"))
    held_out = WINDOWS[held_out_of(len(WINDOWS))]
    reference = AutoModelForCausalLM.from_pretrained(written.path)
    with torch.no_grad():
        assert divergence(path, reference, held_out).item() == pytest.approx(fit.divergence_before, rel=1e-4)
        for name, weight in weights.items():
            reference.get_parameter(name).copy_(weight)
        assert divergence(path, reference, held_out).item() == pytest.approx(fit.divergence_after, rel=1e-4)
    assert fit.divergence_after < fit.divergence_before


def test_weights_stay_where_training_does_not_help(make_llama, tmp_path: Path, monkeypatch) -> None:
    """A step that is much too long leads nowhere."""
    monkeypatch.setattr(norms, "LEARNING_RATE", 30.0)
    source = Checkpoint.open(make_llama())
    model = LayerwiseModel(source, WINDOWS)
    weights, fit = norms.train_norms(
        model, pruned(source, "mlp"), source_states(model, tmp_path / "states"), Journal(tmp_path / "journal")
    )
    assert fit.divergence_after == fit.divergence_before
    for name, weight in weights.items():
        assert torch.equal(weight, source.tensor(name))


def test_an_interrupted_training_goes_on(make_llama, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("edge_transact.layerwise.model.BATCH_TOKENS", 64)
    write_every_state(monkeypatch)
    source = Checkpoint.open(make_llama())
    model, selections = LayerwiseModel(source, WINDOWS), pruned(source, "mlp")
    states = source_states(model, tmp_path / "states")
    whole, _ = norms.train_norms(model, selections, states, Journal(tmp_path / "whole"))
    with killed_after(3):
        norms.train_norms(model, selections, states, Journal(tmp_path / "again"))
    again, _ = norms.train_norms(model, selections, states, Journal(tmp_path / "again"))
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
