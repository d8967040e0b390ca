"""Solves the consuming projections of the pruned model again, so that what is kept does the work of what was cut.

The calibration windows go through the source and the pruned model in parallel. At attention's output and the MLP's down
projection, ridge regression brings the pruned model nearest to its target: the output of the uncut block on the pruned
model's own input, plus half of the difference between the two models' hidden states, so that later layers correct part
of what earlier ones left. A token is weighted by the inverse square of its hidden state's size, by which the next norm
divides; otherwise the few tokens to which LLaMAs give enormous activations would dominate.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional

from edge_transact.architecture.matrices import DOWN, MLP_INPUTS, OUTPUT, Matrix, matrices_of
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import DecoderLayer, linear
from edge_transact.layerwise.model import LayerwiseModel, check_finite, pieces
from edge_transact.progress import bar
from edge_transact.pruning.compensate.last_norm import last_norm_scale
from edge_transact.pruning.compensate.regression import Fit, Regression
from edge_transact.pruning.cut.selection import LayerSelection
from edge_transact.pruning.cut.surgery import cut_layer, kept_inputs
from edge_transact.pruning.units import CONSUMERS

logger = logging.getLogger(__name__)

FROM_SOURCE = 0.5
"""The share of the difference to the source's hidden states that the target corrects."""

HELD_OUT = 8
"""One window in this many is held out to choose the damping; the final solution uses it too."""

PROJECTIONS = tuple(matrix.name for matrix in CONSUMERS.values())

STEP = "compensate"

Dims = slice | torch.Tensor
"""Some of a projection's inputs: a slice, or int64 indices."""

Advance = Callable[[int], None]
"""Moves the progress bar by a number of batches."""


def compensate(
    model: LayerwiseModel, selections: Sequence[LayerSelection], journal: Journal
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, Fit]], float]:
    """Solves the consuming projections of every layer again, in order, and then finds the scale of the last norm.

    Layers go to the journal as soon as they are solved.

    Returns:
        For each layer, the new weights by name, in the dtype of the computation; for each layer, how each projection
        that it keeps was solved; and `last_norm_scale`.

    Raises:
        EdgeTransactError: A layer computes NaN or infinity.
    """
    if "last-norm" not in journal:
        scale = last_norm_scale(model, _run(model, selections, journal))
        journal["last-norm"] = {"scale": torch.tensor(scale, dtype=torch.float64)}
    weights, fits = [], []
    for index in range(len(selections)):
        tensors = journal[f"compensated-{index}"]
        kept = [name for name in PROJECTIONS if f"{name}.fit" in tensors]
        weights.append({f"{name}.weight": tensors[f"{name}.weight"] for name in kept})
        fits.append({name: Fit(*tensors[f"{name}.fit"].tolist()) for name in kept})
    counts = {name: sum(of[name].in_vain for of in fits if name in of) for name in PROJECTIONS}
    in_vain = [f"{name} in {count} of {len(fits)} layers" for name, count in counts.items() if count]
    if in_vain:
        logger.info(f"Compensation leaves {' and '.join(in_vain)} as they were: solving did not reduce the error.")
    return weights, fits, journal["last-norm"]["scale"].item()


@torch.no_grad()
def _run(model: LayerwiseModel, selections: Sequence[LayerSelection], journal: Journal) -> torch.Tensor:
    """Solves all layers; returns the output of the last one."""
    if "compensated-state" in journal:
        state = journal["compensated-state"]
        done, source, pruned = int(state["done"]), state["source"], state["pruned"]
    else:
        done, source = 0, model.embeddings(journal)
        pruned = journal.room(source.shape, source.dtype)
        pruned.copy_(source)
    layers = model.checkpoint.plan.layers
    cut = (index for index, of in enumerate(selections) if of.widths != layers[index])
    first_cut = next(cut, len(selections))
    batches = len(model.batches)
    with bar(STEP, len(selections) * batches, done * batches) as advance:
        for index in range(done, len(selections)):
            if index < first_cut:
                tensors = _pass_uncut(model, index, source, pruned, advance)
            else:
                layer = _Layer(model, index, selections[index], journal)
                tensors = layer.attention(source, pruned) | layer.mlp(source, pruned, advance)
            check_finite({"hidden states": pruned, "the source": source}, model.checkpoint, index)
            journal[f"compensated-{index}"] = tensors
            state = {"source": source, "pruned": pruned, "done": torch.tensor(index + 1)}
            journal.now_and_then("compensated-state", state, last=index + 1 == len(selections))
    return pruned


def _pass_uncut(
    model: LayerwiseModel, index: int, source: torch.Tensor, pruned: torch.Tensor, advance: Advance
) -> dict[str, torch.Tensor]:
    """Runs both streams, which are still equal, through an uncut layer."""
    layer = model.layer(index)
    for of_source, of_pruned in zip(pieces(source, model), pieces(pruned, model), strict=True):
        of_pruned.copy_(of_source.copy_(model.run(layer, of_source)))
        advance(1)
    nothing_missing, widths = Fit(math.inf, 0.0, 0.0), model.checkpoint.plan.layers[index]
    kept = matrices_of(model.checkpoint.plan, widths, CONSUMERS.values())
    return {name: tensor for matrix in kept for name, tensor in _solved(layer, matrix, nothing_missing).items()}


def _solved(layer: DecoderLayer, matrix: Matrix, fit: Fit) -> dict[str, torch.Tensor]:
    """A matrix of a layer and its fit, as the journal keeps them."""
    return {
        f"{matrix.name}.weight": linear(layer, matrix).weight.detach().cpu().clone(),
        f"{matrix.name}.fit": torch.tensor(list(asdict(fit).values()), dtype=torch.float64),
    }


def _frozen(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight, requires_grad=False)


def _others(dims: torch.Tensor, size: int) -> torch.Tensor:
    """The dims of ``range(size)`` that are not among `dims`, int64."""
    others = torch.ones(size, dtype=torch.bool, device=dims.device)
    others[dims] = False
    return others.nonzero()[:, 0]


class _Output(NamedTuple):
    """What the cut projection computes for a batch: its input, its output, and what the uncut one adds to that."""

    activation: torch.Tensor
    output: torch.Tensor
    gone: torch.Tensor


class _Split:
    """Splits a projection's output into the part of the dims that are kept and the part of those that are gone."""

    def __init__(self, full: torch.nn.Linear, cut: torch.nn.Linear, kept: Dims, gone: Dims) -> None:
        self._kept, self._gone, self._cut = kept, gone, cut
        self._weight = full.weight[:, gone]
        self._bias = None if full.bias is None else full.bias - cut.bias

    def __call__(self, uncut: torch.Tensor) -> _Output:
        """Splits the output for an uncut activation, ``[..., in_features]``."""
        activation = uncut[..., self._kept]
        gone = functional.linear(uncut[..., self._gone], self._weight, self._bias)
        return _Output(activation, self._cut(activation), gone)


class _Layer:
    """One layer, uncut and cut, whose projections are solved as both streams of hidden states pass it."""

    def __init__(self, model: LayerwiseModel, index: int, selection: LayerSelection, journal: Journal) -> None:
        self.model = model
        self.journal = journal
        self.index = index
        self.selection = selection
        self.full = model.layer(index)
        self.cut = cut_layer(model, index, selection)

    def attention(self, source: torch.Tensor, pruned: torch.Tensor) -> dict[str, torch.Tensor]:
        """Runs both streams through attention, in place; returns its output projection and the fit, if it is kept."""
        if not self.selection.widths.has_attention:
            return self._without(OUTPUT, partial(self.model.attend, self.full), source)
        full, cut, kept = linear(self.full, OUTPUT), linear(self.cut, OUTPUT), self._kept_of_attention()
        split = None if kept is None else _Split(full, cut, kept, _others(kept, full.in_features))
        attend = partial(self.model.attend, self.full)

        def computed(hidden: torch.Tensor) -> _Output:
            if split is not None:
                return split(attend(hidden))
            activation = self.model.attend(self.cut, hidden)
            output = cut(activation)
            return _Output(activation, output, full(attend(hidden)) - output)

        return self._solve(OUTPUT, attend, computed, source, pruned)

    def _kept_of_attention(self) -> torch.Tensor | None:
        """The dims of attention's activation that the cut layer has; `None` if RoPE pairs or a rotation change all."""
        widths = self.model.checkpoint.plan.layers[self.index]
        if self.selection.rotation or self.selection.qk_pairs.shape[1] < widths.qk_head_dim // 2:
            return None
        return kept_inputs(OUTPUT, widths, self.selection).to(self.model.device)

    def mlp(self, source: torch.Tensor, pruned: torch.Tensor, advance: Advance) -> dict[str, torch.Tensor]:
        """Runs both streams through the MLP, in place; returns its down projection and the fit, if it is kept."""
        if not self.selection.widths.has_mlp:
            return self._without(DOWN, partial(self.model.activate, self.full), source, advance)
        self._order_mlp()
        full, cut = linear(self.full, DOWN), linear(self.cut, DOWN)
        split = _Split(full, cut, slice(0, cut.in_features), slice(cut.in_features, None))
        activate = partial(self.model.activate, self.full)
        return self._solve(DOWN, activate, lambda x: split(activate(x)), source, pruned, advance)

    def _without(
        self,
        matrix: Matrix,
        activation_of: Callable[[torch.Tensor], torch.Tensor],
        source: torch.Tensor,
        advance: Advance = lambda batches: None,
    ) -> dict[str, torch.Tensor]:
        """Runs the source's stream through a block, if it has it, that the pruned model lacks: nothing to solve."""
        plan = self.model.checkpoint.plan
        projections = [linear(self.full, each) for each in matrices_of(plan, plan.layers[self.index], [matrix])]
        for of_source in pieces(source, self.model):
            for full in projections:
                of_source += full(activation_of(of_source)).to(of_source.device)
            advance(1)
        return {}

    def _solve(
        self,
        matrix: Matrix,
        activation_of: Callable[[torch.Tensor], torch.Tensor],
        computed_of: Callable[[torch.Tensor], _Output],
        source: torch.Tensor,
        pruned: torch.Tensor,
        advance: Advance = lambda batches: None,
    ) -> dict[str, torch.Tensor]:
        """Solves a projection again, and adds the block's output to both models' hidden states."""
        full, cut = linear(self.full, matrix), linear(self.cut, matrix)
        regression = Regression(cut.weight)
        activations = self.journal.room((*self.model.windows.shape, cut.in_features), self.model.dtype)
        for held_out, of_source, of_pruned, kept_back in self._batches(source, pruned, activations):
            of_source += full(activation_of(of_source)).to(of_source.device)
            computed = computed_of(of_pruned)
            kept_back.copy_(computed.activation)
            self._add(regression, held_out, computed, of_source, of_pruned)
            advance(1)
        weight, fit = regression.solve()
        cut.weight = _frozen(weight.to(self.model.dtype))
        for hidden, activation in zip(pieces(pruned, self.model), pieces(activations, self.model), strict=True):
            hidden += cut(activation.to(self.model.device)).to(hidden.device)
        return _solved(self.cut, matrix, fit)

    def _order_mlp(self) -> None:
        """Moves the kept dims of the uncut MLP to the front, so that they are a slice of its activations."""
        down, kept = linear(self.full, DOWN), self.selection.intermediate.to(self.model.device)
        order = torch.cat([kept, _others(kept, down.in_features)])
        for projection in (linear(self.full, matrix) for matrix in MLP_INPUTS):
            projection.weight = _frozen(projection.weight[order])
            if projection.bias is not None:
                projection.bias = _frozen(projection.bias[order])
        down.weight = _frozen(down.weight[:, order])

    def _batches(self, *states: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each batch: which of its windows are held out, bool ``[batch]``, and its views of the states."""
        windows = torch.arange(len(self.model.windows))
        # A single window can't be held out from itself.
        held_out = windows % HELD_OUT == HELD_OUT - 1 if len(windows) >= HELD_OUT else windows == len(windows) - 1
        return zip(*(pieces(tensor, self.model) for tensor in (held_out, *states)), strict=True)

    def _add(
        self,
        regression: Regression,
        held_out: torch.Tensor,
        computed: _Output,
        of_source: torch.Tensor,
        of_pruned: torch.Tensor,
    ) -> None:
        """Adds a batch to the regression: the source's hidden states after the block, the pruned model's before it."""
        activation, output, gone = computed
        # The output lacks `gone`, and a share of the distance that the uncut block would leave:
        # `gone + FROM_SOURCE * (of_source - of_pruned - uncut output)`.
        missing = of_source.to(self.model.device, torch.float32, copy=True)
        counts = 1 / missing.square().mean(dim=-1, keepdim=True).clamp_min_(1e-12)
        missing.sub_(of_pruned.to(self.model.device)).sub_(output).mul_(FROM_SOURCE).add_(gone, alpha=1 - FROM_SOURCE)
        # Consecutive windows with the same answer are a view; all windows with the same answer would be a copy.
        runs = torch.unique_consecutive(held_out, return_counts=True)
        parts = zip(runs[0].tolist(), *(t.split(runs[1].tolist()) for t in (activation, missing, counts)), strict=True)
        for chosen, *tensors in parts:
            regression.add(*(tensor.flatten(end_dim=1) for tensor in tensors), held_out=chosen)
