"""Projections solved again: against numpy's least squares, and on a model's own activations."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.compensate.compensation import PROJECTIONS, compensate, last_norm_scale
from edge_transact.pruning.compensate.regression import DAMPINGS, Fit, Regression
from edge_transact.pruning.cut import LayerSelection, cut_layer
from edge_transact.system.memory import peak_rss_mib
from tests.support.pruning import everything

WINDOWS = torch.randint(96, (16, 32), generator=torch.Generator().manual_seed(0))


def problem(tokens: int, noise: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = torch.randn(tokens, 6, generator=generator), torch.randn(3, 6, generator=generator)
    missing = inputs @ torch.randn(3, 6, generator=generator).T + noise * torch.randn(tokens, 3, generator=generator)
    return inputs, weight, missing, torch.rand(tokens, 1, generator=generator) + 0.1


def solution(inputs, weight, missing, counts, fitted: int) -> tuple[torch.Tensor, Fit]:
    """With the first tokens fitted and the others held out."""
    regression = Regression(weight)
    regression.add(inputs[:fitted], missing[:fitted], counts[:fitted], held_out=False)
    regression.add(inputs[fitted:], missing[fitted:], counts[fitted:], held_out=True)
    return regression.solve()


def test_the_solution_is_weighted_ridge_regression() -> None:
    inputs, weight, missing, counts = problem(200, noise=0.1)
    solved, fit = solution(inputs, weight, missing, counts, 150)
    # Ridge regression is least squares with an additional row for each input.
    energy = (inputs.square() * counts).sum(dim=0)
    rows = np.vstack([(inputs * counts.sqrt()).numpy(), np.diag((fit.damping * energy).sqrt().numpy())])
    targets = np.vstack([(missing * counts.sqrt()).numpy(), np.zeros((6, 3))])
    change = np.linalg.lstsq(rows, targets, rcond=None)[0].T
    np.testing.assert_allclose(solved.numpy(), weight.numpy() + change, rtol=1e-3, atol=1e-4)
    assert fit.damping == min(DAMPINGS), "little noise asks for little damping"
    assert fit.error_after < 0.1 * fit.error_before


def test_damping_is_chosen_on_held_out_windows() -> None:
    """With few tokens and much noise, the best fit predicts other tokens badly."""
    assert solution(*problem(12, noise=5.0), 8)[1].damping > min(DAMPINGS)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0, 2.0, 5.0, 20.0])
def test_no_other_damping_is_better(noise: float, monkeypatch) -> None:
    """The held-out error is the least of all dampings, each tried alone."""

    def solved(dampings: tuple[float, ...]) -> Fit:
        monkeypatch.setattr("edge_transact.pruning.compensate.regression.DAMPINGS", dampings)
        return solution(*problem(80, noise=noise), 40)[1]

    chosen, alone = solved(DAMPINGS), [solved((damping,)) for damping in DAMPINGS]
    assert chosen.error_after == pytest.approx(min(fit.error_after for fit in alone), rel=1e-4)


@pytest.mark.parametrize("case", ["nothing missing", "dead inputs", "not numbers", "noise"])
def test_weights_stay_where_no_solution_is_better(case: str) -> None:
    inputs, weight, missing, counts = problem(64, noise=0.0)
    if case == "nothing missing":
        missing = torch.zeros_like(missing)
    elif case == "dead inputs":
        inputs = torch.zeros_like(inputs)
    elif case == "not numbers":
        inputs[0, 0] = torch.nan
    else:
        # The held-out windows need the opposite of the others.
        missing[32:] = -(missing[32:])
    solved, fit = solution(inputs, weight, missing, counts, 32)
    assert fit.damping == float("inf")
    torch.testing.assert_close(solved, weight.double())


def solving_mib(size: int) -> float:
    """The peak memory of solving for a projection with `size` inputs, in addition to the sums."""

    def summed(size: int) -> Regression:
        regression = Regression(torch.randn(64, size))
        for held_out in (False, True):
            regression.add(torch.randn(512, size), torch.randn(512, 64), torch.ones(512, 1), held_out=held_out)
        return regression

    summed(size // 2).solve()  # loads the code that solves, and makes its buffers
    regression = summed(size)
    before = peak_rss_mib()
    regression.solve()
    return peak_rss_mib() - before


def test_solving_takes_one_matrix_besides_the_sums() -> None:
    size = 1536
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own_process:
        taken = own_process.submit(solving_mib, size).result()
    assert taken < 1.3 * size**2 * torch.float64.itemsize / 2**20


def test_nothing_changes_where_nothing_was_cut(make_llama, tmp_path: Path) -> None:
    source = Checkpoint.open(make_llama())
    journal = Journal(tmp_path / "out")
    weights, fits, _ = compensate(LayerwiseModel(source, WINDOWS), everything(source), journal)
    for index, of_layer in enumerate(weights):
        for name in PROJECTIONS:
            torch.testing.assert_close(of_layer[f"{name}.weight"], source.tensor(f"model.layers.{index}.{name}.weight"))
            assert not fits[index][name].in_vain


def test_nothing_is_solved_before_the_first_cut(make_llama, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "edge_transact")
    source = Checkpoint.open(make_llama(num_hidden_layers=3))
    selections = everything(source)
    selections[1] = replace(selections[1], intermediate=torch.arange(0, 40, 2))
    weights, fits, _ = compensate(LayerwiseModel(source, WINDOWS), selections, Journal(tmp_path / "out"))
    for name in PROJECTIONS:
        assert torch.equal(weights[0][f"{name}.weight"], source.tensor(f"model.layers.0.{name}.weight"))
        assert fits[0][name] == Fit(float("inf"), 0.0, 0.0)
    assert fits[1]["mlp.down_proj"].error_after < fits[1]["mlp.down_proj"].error_before
    # The layer after the cut one is uncut too, but corrects the error that the cut one leaves.
    assert all(fits[2][name].error_before > 0 for name in PROJECTIONS)
    assert "layer 0" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"intermediate": torch.arange(0, 40, 2)},
        {"v_dims": torch.arange(5).repeat(3, 1)},
        {"qk_pairs": torch.tensor([[0, 2, 3]]).repeat(3, 1)},
    ],
    ids=["mlp", "values", "queries-keys"],
)
@pytest.mark.parametrize("config", [{}, {"attention_bias": True, "mlp_bias": True}], ids=["plain", "biases"])
def test_the_pruned_model_comes_nearer_to_the_source(make_llama, tmp_path: Path, changes, config) -> None:
    """Compares the last hidden states with solved weights and with weights that were only cut."""
    source = Checkpoint.open(make_llama(**config))
    selections = [replace(whole, **changes) for whole in everything(source)]
    weights, *_ = compensate(LayerwiseModel(source, WINDOWS), selections, Journal(tmp_path / "out"))

    @torch.no_grad()
    def output(model: LayerwiseModel, of: list[LayerSelection] | None) -> torch.Tensor:
        hidden = model.embeddings(Journal(tmp_path / "other"))
        for index in range(source.plan.num_hidden_layers):
            hidden = model.run(cut_layer(model, index, of[index]) if of else model.layer(index), hidden)
        return hidden

    solved = LayerwiseModel(source, WINDOWS)
    for index, of_layer in enumerate(weights):
        for name, tensor in of_layer.items():
            solved.replace(f"model.layers.{index}.{name}", tensor)
    expected = output(solved, None)
    before = (output(LayerwiseModel(source, WINDOWS), selections) - expected).square().mean()
    after = (output(solved, selections) - expected).square().mean()
    assert after < 0.9 * before


@pytest.mark.parametrize("temperature", [0.8, 1.5])
def test_the_last_norm_makes_the_text_most_likely(make_llama, temperature: float, monkeypatch) -> None:
    """For text that the model generated at a temperature, the scale is the inverse; none near it is better."""
    monkeypatch.setattr("edge_transact.layerwise.model.LOGITS_VOCABULARY", 40)  # three blocks, the last one short
    path = make_llama()
    model = AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(0)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "min_new_tokens": 48, "max_new_tokens": 48}
    drawn = model.generate(torch.randint(96, (64, 1)), **sampling)
    states = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))

    @torch.no_grad()
    def loss(scale: float) -> float:
        logits = scale * model(drawn).logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, drawn[:, 1:].flatten()).item()

    loss(1)
    scale = last_norm_scale(LayerwiseModel(Checkpoint.open(path), drawn), states[0])
    assert scale == pytest.approx(1 / temperature, rel=0.1)
    assert loss(scale) < min(loss(0.98 * scale), loss(1.02 * scale))
