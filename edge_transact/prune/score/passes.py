"""Passes over a model that score its layers: forward, and backward for the methods that ask for gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.progress import bar
from edge_transact.prune.calibrate.gram import sums_of
from edge_transact.prune.calibrate.layerwise import LayerwiseModel, check_finite, pieces
from edge_transact.prune.cut.selection import LayerSelection
from edge_transact.prune.journal import Journal
from edge_transact.prune.score.methods.scorer import Activations, Scorer
from edge_transact.prune.score.salience import LayerScores

GRADIENT_TOKENS = 16384
"""Methods that want gradients get those of so many calibration tokens at most: four times the work, and more of them
hardly change what is selected."""


def score_layers(
    model: LayerwiseModel,
    selections: Sequence[LayerSelection],
    method: type[Scorer],
    journal: Journal,
    description: str,
    seed: int = 0,
    predicts: bool = True,
) -> list[LayerScores]:
    """The scores of every layer of the model that `selections` leave.

    Args:
        model: The source, and the calibration windows.
        selections: What is kept of each layer.
        method: Makes each layer's scorer.
        journal: Where scores go as soon as they are known; those that it has are not computed again.
        description: For the progress bar, and what the journal calls them.
        seed: For methods that draw.
        predicts: Whether methods that predict losses shall.

    Raises:
        EdgeTransactError: The model holds or computes NaN or infinity, named by tensor or layer.
    """
    passes = _forward
    if method.gradients != "none":
        passes, model = _backward, model.sample(GRADIENT_TOKENS)
    passes(model, selections, method, journal, description, seed, predicts)
    return [LayerScores.from_tensors(journal[_name(description, index)]) for index in range(len(selections))]


def _name(description: str, part: int | str) -> str:
    """The journal's name of a layer's scores; or of ``state``, the hidden states on their way, or their gradients."""
    return f"{description.replace(' ', '-').replace(',', '')}-{part}"


def _seed(seed: int, description: str, index: int) -> int:
    """A layer's own, the same everywhere: strings seed by their SHA-512."""
    return random.Random(f"{seed}, {description}, layer {index}").getrandbits(63)


def _forward(model, selections, method, journal: Journal, description: str, seed: int, predicts: bool) -> None:
    layers = len(selections)
    if all(_name(description, index) in journal for index in range(layers)):
        return
    state = _name(description, "state")
    done, hidden = 0, None
    if state in journal:
        done, hidden = int(journal[state]["done"]), journal[state]["hidden"]
    hidden = model.embeddings(journal) if hidden is None else hidden
    with bar(description, (layers - done) * len(model.batches)) as advance:
        for index in range(done, layers):
            layer = model.layer(index, selections[index])
            scorer = method(selections[index].widths, layer)
            scorer.seed, scorer.predicts = _seed(seed, description, index), predicts
            for batch in pieces(hidden, model):
                with torch.no_grad(), _watch(layer) as seen:
                    batch.copy_(model.run(layer, batch))
                    scorer.add(seen())
                advance(1)
            _finish(model, scorer, index, journal, description, {"hidden": hidden, "done": torch.tensor(index + 1)})


def _backward(model, selections, method, journal: Journal, description: str, seed: int, predicts: bool) -> None:
    layers = len(selections)
    if all(_name(description, index) in journal for index in range(layers)):
        return
    state = _name(description, "state")
    if state not in journal:
        journal[state] = _inputs_and_gradients(model, selections, journal, f"{description}, forward")
    missing, gradients = int(journal[state]["missing"]), journal[state]["gradients"]
    with bar(f"{description}, backward", missing * len(model.batches)) as advance:
        for index in reversed(range(missing)):
            layer = model.layer(index, selections[index])
            layer.requires_grad_(method.gradients == "weights")
            scorer = method(selections[index].widths, layer)
            scorer.seed, scorer.predicts = _seed(seed, description, index), predicts
            inputs = journal[f"inputs-{index}"]["hidden"]
            for batch, gradient in zip(pieces(inputs, model), pieces(gradients, model), strict=True):
                leaf = batch.detach().to(model.device).requires_grad_()
                with torch.enable_grad(), _watch(layer) as seen:
                    model.run(layer, leaf).backward(gradient.to(model.device))
                with torch.no_grad(), sums_of(model.dtype):
                    scorer.add(seen())
                assert leaf.grad is not None
                gradient.copy_(leaf.grad)
                advance(1)
            _finish(
                model, scorer, index, journal, description, {"gradients": gradients, "missing": torch.tensor(index)}
            )
            journal.discard(f"inputs-{index}")


def _finish(model, scorer: Scorer, index: int, journal: Journal, description: str, state: dict) -> None:
    """A layer is done: its scores go to the journal before the state from which the next one starts."""
    with torch.no_grad():
        tensors = {name: tensor.cpu() for name, tensor in scorer.scores().tensors().items()}
    check_finite(tensors | state, model.checkpoint, index)
    journal[_name(description, index)] = tensors
    journal[_name(description, "state")] = state


def _inputs_and_gradients(model: LayerwiseModel, selections, journal: Journal, description: str) -> dict:
    """Every layer's input goes to the journal; returned is the loss's gradient by the last layer's output."""
    hidden = model.embeddings(journal)
    with bar(description, len(selections) * len(model.batches)) as advance:
        for index, selection in enumerate(selections):
            journal[f"inputs-{index}"] = {"hidden": hidden}
            layer = model.layer(index, selection)
            for batch in pieces(hidden, model):
                with torch.no_grad():
                    batch.copy_(model.run(layer, batch))
                advance(1)
            check_finite({"output": hidden}, model.checkpoint, index)
    gradients = model.loss_gradients(list(pieces(hidden, model)))
    return {"gradients": torch.cat(gradients), "missing": torch.tensor(len(selections))}


@contextmanager
def _watch(layer: LlamaDecoderLayer) -> Iterator:
    """Within, the layer runs once; the yielded function says what it computed, with gradients if there were any."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = (attention.q_proj, attention.k_proj, attention.o_proj, mlp.gate_proj, mlp.down_proj)
    inputs: dict[torch.nn.Module, torch.Tensor] = {}
    outputs: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        inputs[module], outputs[module] = args[0], output
        if output.requires_grad:
            output.retain_grad()

    def flat(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().flatten(end_dim=-2)

    def gradient(module: torch.nn.Module) -> torch.Tensor | None:
        output = outputs[module]
        return flat(output.grad) if output.requires_grad and output.grad is not None else None

    def seen() -> Activations:
        q, k, o, gate, down = modules
        return Activations(
            attention=flat(inputs[o]),
            mlp=flat(inputs[down]),
            attention_input=flat(inputs[q]),
            mlp_input=flat(inputs[gate]),
            queries=flat(outputs[q]),
            keys=flat(outputs[k]),
            attention_gradient=gradient(o),
            mlp_gradient=gradient(down),
            queries_gradient=gradient(q),
        )

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
