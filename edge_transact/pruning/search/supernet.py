"""The supernet: attention and the MLP of every layer at many widths, each of which was solved on the source's inputs.

A plan's model is then put together without solving anything (Tyr-the-Pruner, arXiv 2503.09657). One sum of products for
each module serves all of its widths. Only what was solved is kept, in the journal, a group for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from itertools import product

import torch

from edge_transact.architecture.matrices import OUTPUT
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import linear
from edge_transact.layerwise.model import LayerwiseModel, added, output_size, pieces
from edge_transact.progress import bar
from edge_transact.pruning.compensate.regression import Regression, held_out_of
from edge_transact.pruning.cut import cut_layer, kept_inputs, select
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import CONSUMERS, GROUPS, Module, Unit
from edge_transact.widths import LayerWidths

STEP = "supernet"

Axes = Mapping[Unit, Sequence[int]]
"""The widths of each unit of a layer that the search may choose, ascending."""


def level(module: Module, layer: LayerWidths) -> str:
    """The name in the supernet of a module with a layer's widths."""
    *heads, dims = astuple(layer)
    return f"{module}." + (f"{dims}" if module == "mlp" else "-".join(map(str, heads)))


def lacks(module: Module, layer: LayerWidths) -> bool:
    return not (layer.has_attention if module == "attention" else layer.has_mlp)


def alone(module: Module, layer: LayerWidths) -> LayerWidths:
    """A layer that has nothing but one module of a layer."""
    return replace(layer, intermediate_size=0) if module == "attention" else GROUPS.narrowed(layer, 0)


def group(name: str, index: int) -> str:
    return f"{name}-{index}"


def levels_of(source: LayerWidths, axes: Axes) -> dict[Module, list[LayerWidths]]:
    """All widths of each module of a layer, in layers whose other module is whole."""
    found: dict[Module, list[LayerWidths]] = {}
    for module in CONSUMERS:
        units = [unit for unit in axes if unit.module == module]
        found[module] = []
        for widths in product(*(axes[unit] for unit in units)):
            layer = source
            # The units in the table's order: KV groups before what is inside them.
            for unit, width in zip(units, widths, strict=True):
                layer = unit.narrowed(layer, width) if unit.width(layer) else layer
            if layer not in found[module]:
                found[module].append(layer)
    return found


@torch.no_grad()
def solve(
    model: LayerwiseModel, scores: Sequence[LayerScores], grid: Sequence[Axes], journal: Journal, name: str
) -> None:
    """Solves every level of every layer of a grid but the whole ones, and writes them to the journal as `group`."""
    state, batches = f"{name}-state", len(model.batches)
    if group(name, len(grid) - 1) in journal:
        return
    if state in journal:
        done, hidden = int(journal[state]["done"]), journal[state]["hidden"]
    else:
        done, hidden = 0, model.embeddings(journal)
    with bar(STEP, len(grid) * batches, done * batches) as advance:
        for index in range(done, len(grid)):
            layer = _Layer(model, index, scores[index])
            levels = levels_of(layer.widths, grid[index])
            tensors = (layer.block(module, hidden, levels[module]) for module in CONSUMERS)
            journal[group(name, index)] = {name: tensor for of_module in tensors for name, tensor in of_module.items()}
            journal.now_and_then(state, {"hidden": hidden, "done": torch.tensor(index + 1)}, last=False)
            advance(batches)
    journal.discard(state)


class _Layer:
    """One layer, whose levels are solved as the source's hidden states pass it."""

    def __init__(self, model: LayerwiseModel, index: int, scores: LayerScores) -> None:
        self.model, self.index, self.scores = model, index, scores
        self.widths = model.checkpoint.plan.layers[index]
        self.whole = cut_layer(model, index, select(scores, self.widths))

    def block(self, module: Module, hidden: torch.Tensor, levels: Sequence[LayerWidths]) -> dict[str, torch.Tensor]:
        """Adds a block's output to hidden states; returns the levels' weights. RoPE pairs change all activations."""
        tensors: dict[str, torch.Tensor] = {}
        if lacks(module, self.widths):
            return tensors
        matrix, full, model = CONSUMERS[module], self.widths.qk_head_dim, self.model
        compute = model.attend if module == "attention" else model.activate
        for dims in sorted({each.qk_head_dim for each in levels if not lacks(module, each)} | {full}):
            narrow = cut_layer(model, self.index, select(self.scores, replace(self.widths, qk_head_dim=dims)))
            regression = Regression(linear(narrow, matrix).weight)
            for batch, held_out in zip(pieces(hidden, model), pieces(held_out_of(len(hidden)), model), strict=True):
                activation, missing = compute(self.whole, batch), None
                output = linear(self.whole, matrix)(activation)
                after = batch + added(self.whole, matrix, output).to(batch.device)
                if dims < full:
                    activation = compute(narrow, batch)
                    missing = output.float() - linear(narrow, matrix)(activation)
                else:
                    batch.copy_(after)
                size = output_size(self.whole, matrix, output)
                regression.add_windows(activation, missing, after.to(size.device) * size, held_out)
            tensors |= self._solved(module, regression, [each for each in levels if each.qk_head_dim == dims])
        return tensors

    def _solved(self, module: Module, regression: Regression, levels: Sequence[LayerWidths]) -> dict[str, torch.Tensor]:
        tensors, whole = {}, level(module, self.widths)
        for layer in levels:
            if level(module, layer) == whole or lacks(module, layer):
                continue
            chosen = select(self.scores, layer)
            kept = kept_inputs(CONSUMERS[module], self.widths, chosen).to(self.model.device)
            narrow = regression.narrowed(kept)
            if module == "attention" and chosen.rotation:
                into = chosen.rotation.of_values(torch.eye(len(kept))).T.to(kept.device)
                narrow = narrow.mapped(linear(cut_layer(self.model, self.index, chosen), OUTPUT).weight, into)
            weight, _ = narrow.solve()
            tensors[level(module, layer)] = weight.to(self.model.dtype)
        return tensors
