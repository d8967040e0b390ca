"""Solves the consuming projections of the pruned model again, so that what is kept does the work of what was cut.

The calibration windows go through the source and the pruned model in parallel. At attention's output and the MLP's down
projection, ridge regression brings the pruned model nearest to its target: the output of the uncut block on the pruned
model's own input, plus half of the difference between the two models' hidden states, so that later layers correct part
of what earlier ones left. A token is weighted by the inverse square of its hidden state's size, by which the next norm
divides; otherwise the few tokens to which LLaMAs give enormous activations would dominate.

Where a norm follows the projection, what is missing behind it is carried to the projection's own output with the size
that the uncut block's output has, as if the norm divided by that.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch.nn import functional

from edge_transact.architecture.matrices import OUTPUT, Matrix, matrices_of
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import DecoderLayer, find_linear, linear
from edge_transact.layerwise.model import (
    LOGITS_TOKENS,
    LayerwiseModel,
    added,
    check_finite,
    output_norm,
    output_size,
    pieces,
)
from edge_transact.progress import bar
from edge_transact.pruning.compensate.regression import Fit, Regression, held_out_of
from edge_transact.pruning.cut import LayerSelection, cut_layer, kept_inputs
from edge_transact.pruning.units import CONSUMERS, Module

logger = logging.getLogger(__name__)

FROM_SOURCE = 0.5
"""The share of the difference to the source's hidden states that the target corrects."""

SMALL_GAIN = 1e-2
"""A norm's weights whose square is a smaller share of the mean square hardly pass on what is missing."""

PROJECTIONS = tuple(matrix.name for matrix in CONSUMERS.values())

STEP = "compensate"

STATE = "compensated-state"
"""The journal's group with the output of the last layer that was solved, of the ``source`` and of the ``pruned`` model.
"""

LAST_NORM_STEP = "scale the last norm"

LAST_NORM_TOKENS = 4096
"""The most calibration tokens that are used, which are enough for one number."""

NEWTON_STEPS = 4
"""The largest number of Newton steps."""

LAST_STEP = 3e-3
"""A step shorter than this is the last. Convergence is quadratic: the next would change the factor by about 1e-5."""

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
    if STATE in journal:
        state = journal[STATE]
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
                tensors = layer.block("attention", source, pruned) | layer.block("mlp", source, pruned, advance)
            check_finite({"hidden states": pruned, "the source": source}, model.checkpoint, index)
            journal[f"compensated-{index}"] = tensors
            state = {"source": source, "pruned": pruned, "done": torch.tensor(index + 1)}
            journal.now_and_then(STATE, state, last=index + 1 == len(selections))
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
    return {
        f"{matrix.name}.weight": linear(layer, matrix).weight.detach().cpu().clone(),
        f"{matrix.name}.fit": torch.tensor(list(asdict(fit).values()), dtype=torch.float64),
    }


def _others(dims: torch.Tensor, size: int) -> torch.Tensor:
    """The dims of ``range(size)`` that are not among `dims`, int64."""
    others = torch.ones(size, dtype=torch.bool, device=dims.device)
    others[dims] = False
    return others.nonzero()[:, 0]


class _Layer:
    """One layer, uncut and cut, whose projections are solved as both streams of hidden states pass it."""

    def __init__(self, model: LayerwiseModel, index: int, selection: LayerSelection, journal: Journal) -> None:
        self.model = model
        self.journal = journal
        self.index = index
        self.selection = selection
        self.full = model.layer(index)
        self.cut = cut_layer(model, index, selection)

    def block(
        self,
        module: Module,
        source: torch.Tensor,
        pruned: torch.Tensor,
        advance: Advance = lambda batches: None,
    ) -> dict[str, torch.Tensor]:
        """Runs both streams through attention or the MLP, in place; returns its projection and fit, if it is kept."""
        model, matrix = self.model, CONSUMERS[module]
        compute = model.attend if module == "attention" else model.activate
        full, cut = find_linear(self.full, matrix), find_linear(self.cut, matrix)
        if full is None or cut is None:
            for of_source in pieces(source, model):
                if full is not None:
                    of_source += added(self.full, matrix, full(compute(self.full, of_source))).to(of_source.device)
                advance(1)
            return {}
        regression, kept = Regression(cut.weight), self._kept(matrix)
        if kept is not None:
            gone = _others(kept, full.in_features)
            weight_of_gone = full.weight[:, gone]
            bias_of_gone = None if full.bias is None else full.bias - cut.bias
        activations = self.journal.room((*model.windows.shape, cut.in_features), model.dtype)
        states = held_out_of(len(source)), source, pruned, activations
        for held_out, of_source, of_pruned, kept_back in zip(*(pieces(t, model) for t in states), strict=True):
            of_source += added(self.full, matrix, full(compute(self.full, of_source))).to(of_source.device)
            uncut = compute(self.full, of_pruned)
            activation = compute(self.cut, of_pruned) if kept is None else uncut[..., kept]
            kept_back.copy_(activation)
            output = cut(activation)
            if kept is None:
                lost = full(uncut) - output
            else:
                lost = functional.linear(uncut[..., gone], weight_of_gone, bias_of_gone)
            # The output lacks what is lost, and a share of the distance that the uncut block would leave:
            # `lost + FROM_SOURCE * (of_source - of_pruned - what the uncut block adds)`.
            whole = output + lost
            missing = of_source.to(model.device, torch.float32, copy=True)
            missing.sub_(of_pruned.to(model.device)).sub_(added(self.full, matrix, whole)).mul_(FROM_SOURCE)
            size = output_size(self.full, matrix, whole)
            missing.mul_(size).mul_(self._gain_inverse(matrix)).add_(lost)
            regression.add_windows(activation, missing, of_source.to(model.device) * size, held_out)
            advance(1)
        weight, fit = regression.solve()
        cut.weight = torch.nn.Parameter(weight.to(model.dtype), requires_grad=False)
        for hidden, activation in zip(pieces(pruned, model), pieces(activations, model), strict=True):
            hidden += added(self.cut, matrix, cut(activation.to(model.device))).to(hidden.device)
        return _solved(self.cut, matrix, fit)

    def _gain_inverse(self, matrix: Matrix) -> torch.Tensor:
        """One over the weights of the norm of the output, fp32 ``[hidden_size]``, with small ones damped; 1 without."""
        norm = output_norm(self.full, matrix)
        if norm is None:
            return torch.ones((), device=self.model.device)
        gain: torch.Tensor = norm.get_parameter("weight").float()
        return gain / (gain.square() + SMALL_GAIN * gain.square().mean())

    def _kept(self, matrix: Matrix) -> torch.Tensor | None:
        """The inputs of a matrix that the cut layer has, int64; `None` if RoPE pairs or a rotation change all."""
        widths = self.model.checkpoint.plan.layers[self.index]
        has_others = self.selection.rotation or self.selection.qk_pairs.shape[1] < widths.qk_head_dim // 2
        if matrix is OUTPUT and has_others:
            return None
        return kept_inputs(matrix, widths, self.selection).to(self.model.device)


@torch.no_grad()
def last_norm_scale(model: LayerwiseModel, hidden: torch.Tensor) -> float:
    """The factor on logits at which the calibration text is most likely: one temperature (Guo et al., 2017).

    A pruned model is nearly as confident as its source, and more often wrong. The loss is convex in the factor, and a
    few Newton steps find it. Greedy answers don't change.

    `hidden` is the output of the pruned model's last layer, ``[windows, window, hidden_size]``. The factor is 1 if none
    is found, because the loss has no curvature or the factor would not be above 0.
    """
    step = max(1, -(-model.windows.numel() // LAST_NORM_TOKENS))
    states = hidden[::step, :-1].flatten(end_dim=1)
    labels = model.windows[::step, 1:].flatten()
    scale = 1.0
    with bar(LAST_NORM_STEP, NEWTON_STEPS * len(labels)) as advance:
        for _ in range(NEWTON_STEPS):
            slope, curvature = 0.0, 0.0
            for piece, following in zip(states.split(LOGITS_TOKENS), labels.split(LOGITS_TOKENS), strict=True):
                mean, square, expected = _moments(model, piece, following.to(model.device), scale)
                slope += (mean - expected).sum().item()
                curvature += (square - mean.square()).sum().item()
                advance(len(piece))
            if not curvature > 0 or not scale - slope / curvature > 0:
                return 1.0
            scale -= slope / curvature
            if abs(slope / curvature) < LAST_STEP:
                break
    return scale


def _moments(model: LayerwiseModel, hidden: torch.Tensor, labels: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """By token, fp32: the mean and mean square of its logits under the scaled softmax, and the label's logit."""
    largest, sums, moments = [], [], []
    expected = torch.zeros(len(labels), device=labels.device)
    first = 0
    for logits in model.logit_blocks(hidden):
        inside = labels - first
        first += logits.shape[1]
        found = logits.gather(1, inside.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        expected += torch.where((inside >= 0) & (inside < logits.shape[1]), found, 0.0)
        largest.append(logits.amax(dim=-1))
        weights = logits.sub(largest[-1][:, None]).mul_(scale).exp_()
        sums.append(weights.sum(dim=-1))
        weights *= logits
        moments.append(torch.stack([weights.sum(dim=-1), weights.mul_(logits).sum(dim=-1)]))
    tops = torch.stack(largest)
    shares = (scale * (tops - tops.amax(dim=0))).exp()
    total = (shares * torch.stack(sums)).sum(dim=0)
    return [*((shares[:, None] * torch.stack(moments)).sum(dim=0) / total), expected]
