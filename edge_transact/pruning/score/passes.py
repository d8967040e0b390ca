"""Passes over a model that score its layers: forward, and backward for methods that need gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from edge_transact.architecture.matrices import DOWN, GATE, KEY, OUTPUT, QUERY, Matrix
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import DecoderLayer, find_linear
from edge_transact.layerwise.gram import sums_of
from edge_transact.layerwise.model import LayerwiseModel, check_finite, pieces, through
from edge_transact.progress import bar
from edge_transact.pruning.cut import LayerSelection, cut_layer
from edge_transact.pruning.score.kept import KeptScores
from edge_transact.pruning.score.methods.scorer import Activations, Scorer
from edge_transact.pruning.scores import LayerScores

GRADIENT_TOKENS = 16384
"""Methods that need gradients get them for at most this many calibration tokens: more hardly change the selection."""

Tensors = dict[str, torch.Tensor]


def description(shot: int, shots: int) -> str:
    """What the bars of a shot's passes, and the journal, call them."""
    return "score" if shots == 1 else f"score, shot {shot} of {shots}"


@dataclass
class Scoring:
    """The passes that score every layer of the model that `selections` leave.

    `description` is the title of the progress bar, and what the journal calls the scores. `seed` is for methods that
    draw at random; `wants_losses` tells whether methods that can predict losses should; `kept` may have the scores.
    """

    model: LayerwiseModel
    selections: Sequence[LayerSelection]
    method: type[Scorer]
    journal: Journal
    description: str
    seed: int = 0
    wants_losses: bool = True
    kept: KeptScores | None = None

    def layers(self) -> list[LayerScores]:
        """The scores of each layer, from the journal as far as it has them.

        Raises:
            EdgeTransactError: The model holds or computes NaN or infinity; the tensor or the layer is named.
        """
        if not all(name in self.journal for name in self.names()):
            if self.kept:
                asked = [self.method.__name__, self.seed, self.wants_losses]
                self.kept.bring(self.journal, self.names(), self.model.windows, asked, self.run)
            else:
                self.run()
        return [LayerScores.from_tensors(self.journal[name]) for name in self.names()]

    def run(self) -> None:
        """The passes, which write the scores to the journal. Raises the same."""
        if self.method.gradients == "none":
            self.forward()
        else:
            self.model = self.model.sample(GRADIENT_TOKENS)
            self.backward()

    def names(self) -> list[str]:
        """The journal's groups of the layers' scores."""
        return [self.name(index) for index in range(len(self.selections))]

    def name(self, part: int | str) -> str:
        """The journal's name of a layer's scores, or of ``state``: the hidden states or gradients between layers."""
        return f"{self.description.replace(' ', '-').replace(',', '')}-{part}"

    def _input(self, index: int) -> str:
        return self.name(f"inputs-{index}-state")

    def forward(self) -> None:
        model, layers = self.model, len(self.selections)
        if self.name("state") in self.journal:
            state = self.journal[self.name("state")]
            done, hidden = int(state["done"]), state["hidden"]
        else:
            done, hidden = 0, model.embeddings(self.journal)
        batches = len(model.batches)
        with bar(self.description, layers * batches, done * batches) as advance:
            for index in range(done, layers):
                layer = cut_layer(model, index, self.selections[index])
                scorer = self._scorer(index, layer)
                for batch in pieces(hidden, model):
                    with torch.no_grad(), _watch(layer) as seen:
                        batch.copy_(model.run(layer, batch))
                        scorer.add(seen())
                    advance(1)
                self._finish(scorer, index, {"hidden": hidden, "done": torch.tensor(index + 1)})

    def backward(self) -> None:
        """Scores the layers from the last to the first, after a forward pass that keeps every layer's input."""
        model, journal, state = self.model, self.journal, self.name("state")
        if state not in journal:
            journal[state] = self._inputs_and_gradients()
        missing, gradients = int(journal[state]["missing"]), journal[state]["gradients"]
        layers, batches = len(self.selections), len(model.batches)
        with bar(f"{self.description}, backward", layers * batches, (layers - missing) * batches) as advance:
            for index in reversed(range(missing)):
                layer = cut_layer(model, index, self.selections[index])
                layer.requires_grad_(self.method.gradients == "weights")
                scorer = self._scorer(index, layer)
                inputs = journal[self._input(index)]["hidden"]
                for batch, gradient in zip(pieces(inputs, model), pieces(gradients, model), strict=True):
                    leaf = batch.detach().to(model.device).requires_grad_()
                    with torch.enable_grad(), _watch(layer) as seen:
                        model.run(layer, leaf).backward(gradient.to(model.device))
                    with torch.no_grad(), sums_of(model.dtype):
                        scorer.add(seen())
                    assert leaf.grad is not None
                    gradient.copy_(leaf.grad)
                    advance(1)
                self._finish(scorer, index, {"gradients": gradients, "missing": torch.tensor(index)})
                journal.discard(self._input(index))

    def _scorer(self, index: int, layer: DecoderLayer) -> Scorer:
        # Python seeds strings by their SHA-512, so the seed is the same everywhere.
        seed = random.Random(f"{self.seed}, {self.description}, layer {index}").getrandbits(63)
        return self.method(self.selections[index].widths, layer, seed=seed, wants_losses=self.wants_losses)

    def _finish(self, scorer: Scorer, index: int, state: Tensors) -> None:
        """Writes a layer's scores to the journal, and then the state from which the next layer starts."""
        with torch.no_grad():
            tensors = {name: tensor.cpu() for name, tensor in scorer.scores().tensors().items()}
        check_finite(tensors | state, self.model.checkpoint, index)
        self.journal[self.name(index)] = tensors
        self.journal[self.name("state")] = state

    def _inputs_and_gradients(self) -> Tensors:
        """Writes every layer's input to the journal; returns the loss's gradient with respect to the last output."""
        model, layers = self.model, len(self.selections)
        known = [index for index in range(layers) if self._input(index) in self.journal]
        done = known[-1] if known else 0
        hidden = self.journal[self._input(done)]["hidden"] if known else model.embeddings(self.journal)
        windows = len(hidden)
        with bar(f"{self.description}, forward", layers * windows, done * windows) as advance:
            for index in range(done, layers):
                self.journal[self._input(index)] = {"hidden": hidden}
                with torch.no_grad():
                    through(model, cut_layer(model, index, self.selections[index]), hidden, advance)
                check_finite({"output": hidden}, model.checkpoint, index)
        with bar(f"{self.description}, loss", model.windows.numel()) as advance:
            gradients = model.loss_gradients(list(pieces(hidden, model)), advance)
        return {"gradients": torch.cat(gradients), "missing": torch.tensor(len(self.selections))}


@contextmanager
def _watch(layer: DecoderLayer) -> Iterator[Callable[[], Activations]]:
    """Records one run of the layer; the yielded function returns what it computed, with any gradients."""
    inputs: dict[Matrix, torch.Tensor] = {}
    outputs: dict[Matrix, torch.Tensor] = {}

    def keep(matrix: Matrix, _module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        inputs[matrix], outputs[matrix] = args[0], output
        if output.requires_grad:
            output.retain_grad()

    def flat(tensor: torch.Tensor | None) -> torch.Tensor:
        # What the layer lacks has no dims.
        return torch.empty(1, 0) if tensor is None else tensor.detach().flatten(end_dim=-2)

    def gradient(matrix: Matrix) -> torch.Tensor | None:
        output = outputs.get(matrix)
        return None if output is None or output.grad is None else flat(output.grad)

    def seen() -> Activations:
        return Activations(
            attention=flat(inputs.get(OUTPUT)),
            mlp=flat(inputs.get(DOWN)),
            attention_input=flat(inputs.get(QUERY)),
            mlp_input=flat(inputs.get(GATE)),
            queries=flat(outputs.get(QUERY)),
            keys=flat(outputs.get(KEY)),
            attention_gradient=gradient(OUTPUT),
            mlp_gradient=gradient(DOWN),
            queries_gradient=gradient(QUERY),
        )

    watched = {matrix: find_linear(layer, matrix) for matrix in (QUERY, KEY, OUTPUT, GATE, DOWN)}
    handles = [module.register_forward_hook(partial(keep, matrix)) for matrix, module in watched.items() if module]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
