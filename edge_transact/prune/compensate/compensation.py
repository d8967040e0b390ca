"""The consuming projections of the pruned model solved anew, so that what stays does the work of what went.

The calibration windows go through the source and through the pruned model side by side, a layer at a time. At each of
`o_proj` and `down_proj`, ridge regression finds the weights that bring the pruned model nearest to the target: what the
uncut block would have done with the pruned model's own input, and half of the way back to where the source is by then.
So later layers see what earlier ones now produce, and mend what those left, without being asked to undo all of it.
Layers of which nothing goes, before the first that loses something, have nothing to mend and stay as they are.

A token counts by the inverse square of its residual's size, since the next norm divides by that: without it the few
tokens that LLaMAs give enormous activations would be all that matters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.progress import bar
from edge_transact.prune.calibrate.layerwise import LayerwiseModel, check_finite, pieces
from edge_transact.prune.compensate.last_norm import last_norm_scale
from edge_transact.prune.compensate.regression import Fit, Regression
from edge_transact.prune.cut.selection import LayerSelection
from edge_transact.prune.cut.surgery import attention_dims
from edge_transact.prune.journal import Journal

logger = logging.getLogger(__name__)

FROM_SOURCE = 0.5
"""How much of the way back to the source's hidden states the target goes."""

HELD_OUT = 8
"""One window in so many is held out to choose the damping, and used for the solution after that."""

PROJECTIONS = ("self_attn.o_proj", "mlp.down_proj")

Dims = slice | torch.Tensor
"""Some of a projection's inputs: a slice, or int64 indices."""


def compensate(
    model: LayerwiseModel, selections: Sequence[LayerSelection], journal: Journal
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, Fit]], float]:
    """Solves `o_proj` and `down_proj` of every layer anew, in order, and then finds the scale of the last norm.

    Args:
        model: The source, and the calibration windows.
        selections: What is kept of each layer.
        journal: Where each layer's weights go as soon as they are solved.

    Returns:
        For each layer, the new weights by name, ``self_attn.o_proj.weight`` and ``mlp.down_proj.weight``, in the dtype
        of the computation; how each was found; and `last_norm_scale`.

    Raises:
        EdgeTransactError: A layer computes NaN or infinity.
    """
    if "last-norm" not in journal:
        scale = last_norm_scale(model, _run(model, selections, journal))
        journal["last-norm"] = {"scale": torch.tensor(scale, dtype=torch.float64)}
    weights, fits = [], []
    for index in range(len(selections)):
        tensors = journal[f"compensated-{index}"]
        weights.append({f"{name}.weight": tensors[f"{name}.weight"] for name in PROJECTIONS})
        fits.append({name: Fit(*tensors[f"{name}.fit"].tolist()) for name in PROJECTIONS})
    kept = [f"layer {i}'s {name}" for i, of in enumerate(fits) for name, fit in of.items() if fit.in_vain]
    if "last-norm" not in journal:
        scale = last_norm_scale(model, journal["compensated-state"]["pruned"])
        journal["last-norm"] = {"scale": torch.tensor(scale, dtype=torch.float64)}
    if kept:
        logger.info(f"As they were, since no regression made them better: {', '.join(kept)}.")
    return weights, fits, journal["last-norm"]["scale"].item()


@torch.no_grad()
def _run(model: LayerwiseModel, selections: Sequence[LayerSelection], journal: Journal) -> torch.Tensor:
    """Solves all layers; what the last one puts out then."""
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
    with bar("compensate", (len(selections) - done) * len(model.batches)) as advance:
        for index in range(done, len(selections)):
            if index < first_cut:
                tensors = _pass_whole(model, index, source, pruned, advance)
            else:
                layer = _Layer(model, index, selections[index], journal)
                tensors = layer.attention(source, pruned) | layer.mlp(source, pruned, advance)
            check_finite({"hidden states": pruned, "the source": source}, model.checkpoint, index)
            journal[f"compensated-{index}"] = tensors
            state = {"source": source, "pruned": pruned, "done": torch.tensor(index + 1)}
            journal.now_and_then("compensated-state", state, last=index + 1 == len(selections))
    return pruned


def _pass_whole(model: LayerwiseModel, index: int, source, pruned, advance) -> dict[str, torch.Tensor]:
    """Moves both streams, still the same, over a layer of which nothing goes."""
    layer = model.layer(index)
    for of_source, of_pruned in zip(pieces(source, model), pieces(pruned, model), strict=True):
        of_pruned.copy_(of_source.copy_(model.run(layer, of_source)))
        advance(1)
    nothing_missing = Fit(math.inf, 0.0, 0.0)
    of_attention = _solved(PROJECTIONS[0], layer.self_attn.o_proj, nothing_missing)
    return of_attention | _solved(PROJECTIONS[1], layer.mlp.down_proj, nothing_missing)


def _solved(name: str, projection: torch.nn.Linear, fit: Fit) -> dict[str, torch.Tensor]:
    """A projection's weight and its fit, as the journal keeps them."""
    return {
        f"{name}.weight": projection.weight.detach().cpu().clone(),
        f"{name}.fit": torch.tensor(list(asdict(fit).values()), dtype=torch.float64),
    }


def _frozen(weight: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight, requires_grad=False)


def _others(dims: torch.Tensor, size: int) -> torch.Tensor:
    """Those of `size` dims that are not among `dims`, int64."""
    others = torch.ones(size, dtype=torch.bool, device=dims.device)
    others[dims] = False
    return others.nonzero()[:, 0]


class _Split:
    """A projection's output in two: of the dims that the cut one keeps, and of those that go.

    Args:
        full: The projection uncut.
        cut: The same with the columns `kept`; its bias may be another.
        kept: Which dims those are.
        gone: The others.
    """

    def __init__(self, full: torch.nn.Linear, cut: torch.nn.Linear, kept: Dims, gone: Dims) -> None:
        self._kept, self._gone, self._cut = kept, gone, cut
        self._weight = full.weight[:, gone]
        self._bias = None if full.bias is None else full.bias - cut.bias

    def __call__(self, uncut: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of an activation ``[..., in_features]``: its dims that are kept; what the cut projection makes of them,
        ``[..., hidden_size]``; and what that is short of the uncut output.
        """
        activation = uncut[..., self._kept]
        gone = functional.linear(uncut[..., self._gone], self._weight, self._bias)
        return activation, self._cut(activation), gone


class _Layer:
    """One layer, uncut and cut."""

    def __init__(self, model: LayerwiseModel, index: int, selection: LayerSelection, journal: Journal) -> None:
        self.model = model
        self.journal = journal
        self.index = index
        self.selection = selection
        self.full = model.layer(index)
        self.cut = model.layer(index, selection)

    def attention(self, source: torch.Tensor, pruned: torch.Tensor) -> dict[str, torch.Tensor]:
        """Moves both streams over attention, in place."""
        projection = self.cut.self_attn.o_proj
        regression = Regression(projection.weight)
        o_proj, kept = self.full.self_attn.o_proj, self._kept_of_attention()
        split = None if kept is None else _Split(o_proj, projection, kept, _others(kept, o_proj.in_features))
        activations = self._room(projection)
        for held_out, of_source, of_pruned, kept_back in self._batches(source, pruned, activations):
            of_source += o_proj(self._attend(self.full, of_source)).to(of_source.device)
            uncut = self._attend(self.full, of_pruned)
            if split is None:  # the queries and keys of the cut layer are others
                activation = self._attend(self.cut, of_pruned)
                output = projection(activation)
                gone = o_proj(uncut) - output
            else:
                activation, output, gone = split(uncut)
            kept_back.copy_(activation)
            self._add(regression, held_out, activation, output, gone, of_source, of_pruned)
        return self._finish(PROJECTIONS[0], projection, regression, pruned, activations)

    def _kept_of_attention(self) -> torch.Tensor | None:
        """Which dims of the uncut layer's `o_proj` input are the cut one's; `None` where attention itself differs."""
        widths = self.model.checkpoint.plan.layers[self.index]
        if self.selection.qk_pairs.shape[1] < widths.qk_head_dim // 2:
            return None
        return attention_dims(widths, self.selection).to(self.model.device)

    def mlp(self, source: torch.Tensor, pruned: torch.Tensor, advance) -> dict[str, torch.Tensor]:
        """Moves both streams over the MLP, in place."""
        projection = self.cut.mlp.down_proj
        regression = Regression(projection.weight)
        self._order_mlp()
        size = projection.in_features
        split = _Split(self.full.mlp.down_proj, projection, slice(0, size), slice(size, None))
        activations = self._room(projection)
        for held_out, of_source, of_pruned, kept_back in self._batches(source, pruned, activations):
            of_source += self.full.mlp.down_proj(self._activate(of_source)).to(of_source.device)
            activation, output, gone = split(self._activate(of_pruned))
            kept_back.copy_(activation)
            self._add(regression, held_out, activation, output, gone, of_source, of_pruned)
            advance(1)
        return self._finish(PROJECTIONS[1], projection, regression, pruned, activations)

    def _order_mlp(self) -> None:
        """Puts the dims that stay first in the uncut MLP, so that they are a slice of its activations."""
        mlp, kept = self.full.mlp, self.selection.intermediate.to(self.model.device)
        order = torch.cat([kept, _others(kept, mlp.down_proj.in_features)])
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight = _frozen(projection.weight[order])
            if projection.bias is not None:
                projection.bias = _frozen(projection.bias[order])
        mlp.down_proj.weight = _frozen(mlp.down_proj.weight[:, order])

    def _room(self, projection: torch.nn.Linear) -> torch.Tensor:
        """For what the projection is given, ``[windows, window, in_features]``."""
        return self.journal.room((*self.model.windows.shape, projection.in_features), self.model.dtype)

    def _batches(self, *states: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Which of a batch's windows are held out, and its part of each of the states, as views."""
        windows = torch.arange(len(self.model.windows))
        # A single window can't be held out from itself.
        held_out = windows % HELD_OUT == HELD_OUT - 1 if len(windows) >= HELD_OUT else windows == len(windows) - 1
        return zip(*(pieces(tensor, self.model) for tensor in (held_out, *states)), strict=True)

    def _attend(self, layer: LlamaDecoderLayer, hidden: torch.Tensor) -> torch.Tensor:
        """`o_proj`'s input."""
        inputs = []

        def keep(_module: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            inputs.append(args[0])
            return (args[0][:0],)

        handle = layer.self_attn.o_proj.register_forward_pre_hook(keep)
        normed = layer.input_layernorm(hidden.to(self.model.device))
        layer.self_attn(normed, position_embeddings=self.model.rotary, attention_mask=None)
        handle.remove()
        return inputs[0]

    def _activate(self, hidden: torch.Tensor) -> torch.Tensor:
        """`down_proj`'s input, of the uncut layer."""
        normed = self.full.post_attention_layernorm(hidden.to(self.model.device))
        mlp = self.full.mlp
        return mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)

    def _add(self, regression: Regression, held_out, activation, output, gone, of_source, of_pruned) -> None:
        # `of_source` is past the block already: the distance that is left is what the uncut block would leave. What
        # is missing is what goes, and so much of that distance: `gone + FROM_SOURCE * (source - pruned - uncut)`.
        missing = of_source.to(self.model.device, torch.float32, copy=True)
        counts = 1 / missing.square().mean(dim=-1, keepdim=True).clamp_min_(1e-12)
        missing.sub_(of_pruned.to(self.model.device)).sub_(output).mul_(FROM_SOURCE).add_(gone, alpha=1 - FROM_SOURCE)
        # Runs of windows that are held out or aren't are views, which all windows with one answer aren't.
        runs = torch.unique_consecutive(held_out, return_counts=True)
        parts = zip(runs[0].tolist(), *(t.split(runs[1].tolist()) for t in (activation, missing, counts)), strict=True)
        for chosen, *tensors in parts:
            regression.add(*(tensor.flatten(end_dim=1) for tensor in tensors), held_out=chosen)

    def _finish(self, name, projection, regression, pruned, activations) -> dict[str, torch.Tensor]:
        weight, fit = regression.solve()
        projection.weight = _frozen(weight.to(self.model.dtype))
        for hidden, activation in zip(pieces(pruned, self.model), pieces(activations, self.model), strict=True):
            hidden += projection(activation.to(self.model.device)).to(hidden.device)
        return _solved(name, projection, fit)
