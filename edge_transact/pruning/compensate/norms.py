"""Trains the norms' weights of the pruned model toward the source's predictions, and nothing else.

A norm's weight scales the hidden dims that the next projections read: a thousand numbers for a layer of millions, which
a few thousand tokens determine without being learned by heart. Adam changes each weight by a share of itself, on the
Kullback-Leibler divergence from the source's predictions. Layers are in memory one at a time: a step takes a batch of
windows forward, keeping each layer's input, and back. The text is read once. Weights stay as they were unless the
divergence is less on the regressions' held-out windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from edge_transact.architecture.matrices import HIDDEN_NORMS, norms_of
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import DecoderLayer, final_norm
from edge_transact.checkpoint.layout import EMBEDDING, LAST_NORM
from edge_transact.layerwise.model import LOGITS_TOKENS, LayerwiseModel
from edge_transact.progress import bar
from edge_transact.pruning.compensate.regression import held_out_of
from edge_transact.pruning.cut import LAYERS_PREFIX, LayerSelection, cut_layer

STEP = "train the norms"

LEARNING_RATE = 0.003
"""Of the first step; it falls along half a cosine. Ten times as much made SmolLM2's predictions worse."""

BETAS, EPSILON = (0.9, 0.95), 1e-8

_GROUP, _STATE = "norms", "norms-state"


@dataclass(frozen=True)
class NormFit:
    """What training the norms brought, in nats a token on the held-out windows: the divergence before and after."""

    divergence_before: float
    divergence_after: float


def train_norms(
    model: LayerwiseModel, selections: Sequence[LayerSelection], source: torch.Tensor, journal: Journal
) -> tuple[dict[str, torch.Tensor], NormFit]:
    """The norms' weights by name, fp32 ``[hidden_size]``, of the model that `selections` and its `replaced` leave.

    Args:
        source: The output of the source's last layer, ``[windows, window, hidden_size]``.
    """
    if _GROUP not in journal:
        with torch.no_grad():
            journal[_GROUP] = _Training(model, selections, source, journal).run()
    tensors = journal[_GROUP]
    fit = NormFit(*tensors.pop("fit").tolist())
    return tensors, fit


class _Training:
    """The norms' weights while they are trained, and Adam's state of each."""

    def __init__(
        self, model: LayerwiseModel, selections: Sequence[LayerSelection], source: torch.Tensor, journal: Journal
    ) -> None:
        self.model, self.selections, self.source, self.journal = model, selections, source, journal
        self.head = model.lm_head
        self.rows = model.checkpoint.tensor(EMBEDDING)
        held_out = held_out_of(len(source))
        self.held_out = held_out.nonzero()[:, 0]
        self.read = (held_out if held_out.all() else ~held_out).nonzero()[:, 0]
        names = [name for index, of in enumerate(selections) for name in self._of_layer(index, of)]
        tensors = [model.replaced.get(name, model.checkpoint.tensor(name)).float() for name in (*names, LAST_NORM)]
        self.names, self.first = (*names, LAST_NORM), torch.stack(tensors).to(model.device)
        # [norms, hidden_size]: the change of each weight as a share of it, its gradient's mean and mean square.
        self.change, self.mean, self.square = (torch.zeros_like(self.first) for _ in range(3))

    def _of_layer(self, index: int, selection: LayerSelection) -> list[str]:
        norms = norms_of(self.model.checkpoint.plan, selection.widths)
        return [f"{LAYERS_PREFIX}{index}.{norm}.weight" for norm in HIDDEN_NORMS if norm in norms]

    def run(self) -> dict[str, torch.Tensor]:
        """The better weights by name, and ``fit``: the held-out divergence before and after, fp64 ``[2]``."""
        batches = self.read.split(self.model.batch_windows)
        done, before = 0, math.nan
        if _STATE in self.journal:
            state = self.journal[_STATE]
            done, before = int(state["done"]), state["before"].item()
            self.change, self.mean, self.square = state["change"], state["mean"], state["square"]
        else:
            before = self.divergence(self.held_out)
        with bar(STEP, len(batches), done) as advance:
            for step in range(done, len(batches)):
                self._step(batches[step], step + 1, LEARNING_RATE * (1 + math.cos(math.pi * step / len(batches))) / 2)
                advance(1)
                state = {"change": self.change, "mean": self.mean, "square": self.square}
                state |= {"done": torch.tensor(step + 1), "before": torch.tensor(before, dtype=torch.float64)}
                self.journal.now_and_then(_STATE, state, last=False)
        after = self.divergence(self.held_out)
        if not after < before:
            self.change, after = torch.zeros_like(self.change), before
        fit = torch.tensor([before, after], dtype=torch.float64)
        weights = self.first * (1 + self.change)
        return {"fit": fit, **{name: weight.cpu() for name, weight in zip(self.names, weights, strict=True)}}

    def divergence(self, windows: torch.Tensor) -> float:
        """The mean divergence of the predictions for windows with these indices, in nats a token."""
        total = 0.0
        for batch in windows.split(self.model.batch_windows):
            hidden = self._forward(batch, [])
            total += self._compare(hidden, batch, None)[0]
        return total / (len(windows) * self.model.windows.shape[1])

    def gradient(self, batch: torch.Tensor) -> torch.Tensor:
        """The gradient of the mean divergence of windows by the norms' weights, fp32 ``[norms, hidden_size]``."""
        inputs: list[torch.Tensor] = []
        hidden = self._forward(batch, inputs)
        by_weight = torch.zeros_like(self.first)
        _, gradient = self._compare(hidden, batch, by_weight)
        for index in reversed(range(len(self.selections))):
            layer, norms = self._layer(index)
            leaf = inputs.pop().requires_grad_()
            for norm in norms.values():
                norm.requires_grad_()
            with torch.enable_grad():
                self.model.run(layer, leaf).backward(gradient)
            assert leaf.grad is not None
            gradient = leaf.grad
            for row, norm in norms.items():
                assert norm.grad is not None
                by_weight[row] = norm.grad.float()
        return by_weight / (len(batch) * self.model.windows.shape[1])

    def _step(self, batch: torch.Tensor, step: int, rate: float) -> None:
        by_change = self.gradient(batch) * self.first
        self.mean.lerp_(by_change, 1 - BETAS[0])
        self.square.lerp_(by_change.square(), 1 - BETAS[1])
        root = (self.square / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
        self.change -= rate / (1 - BETAS[0] ** step) * self.mean / root

    def _forward(self, batch: torch.Tensor, inputs: list[torch.Tensor]) -> torch.Tensor:
        """The last layer's output for windows, on `device`; adds every layer's input to `inputs`."""
        hidden = self.model.scaled(self.rows[self.model.windows[batch]]).to(self.model.device, self.model.dtype)
        for index in range(len(self.selections)):
            inputs.append(hidden)
            hidden = self.model.run(self._layer(index)[0], hidden)
        return hidden

    def _layer(self, index: int) -> tuple[DecoderLayer, dict[int, torch.nn.Parameter]]:
        """A layer with the norms' weights as they are now, and these by their rows of `change`."""
        layer = cut_layer(self.model, index, self.selections[index])
        norms = {}
        for name in self._of_layer(index, self.selections[index]):
            row = self.names.index(name)
            weight = torch.nn.Parameter(self._weight(row), requires_grad=False)
            layer.get_submodule(name.removeprefix(f"{LAYERS_PREFIX}{index}.").removesuffix(".weight")).weight = weight
            norms[row] = weight
        return layer, norms

    def _weight(self, row: int) -> torch.Tensor:
        return (self.first[row] * (1 + self.change[row])).to(self.model.dtype)

    def _compare(
        self, hidden: torch.Tensor, batch: torch.Tensor, by_weight: torch.Tensor | None
    ) -> tuple[float, torch.Tensor]:
        """The summed divergence of windows, and its gradient by `hidden`; that by the last norm goes to `by_weight`."""
        model, total = self.model, 0.0
        norm = final_norm(model.checkpoint, self._weight(-1))
        wanted, flat = self.source[batch].flatten(end_dim=1), hidden.flatten(end_dim=1)
        gradients = []
        for piece, of_source in zip(flat.split(LOGITS_TOKENS), wanted.split(LOGITS_TOKENS), strict=True):
            leaf = piece.detach().requires_grad_()
            norm.requires_grad_(by_weight is not None)
            with torch.enable_grad():
                normed = norm(leaf)
            expected = model.logits(of_source).log_softmax(dim=-1)
            found = functional.linear(normed.detach(), self.head).float().log_softmax(dim=-1)
            probabilities = expected.exp()
            total += (probabilities * (expected - found)).sum(dtype=torch.float64).item()
            if by_weight is not None:
                by_normed = found.exp_().sub_(probabilities).to(model.dtype) @ self.head
                by_leaf, by_norm = torch.autograd.grad(normed, [leaf, *norm.parameters()], by_normed)
                by_weight[-1] += by_norm.float()
                gradients.append(by_leaf)
        return total, torch.cat(gradients).view_as(hidden) if gradients else hidden
