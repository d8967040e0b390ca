"""Which units of a layer are kept, and a checkpoint's tensors cut down to them as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from edge_transact.architecture.matrices import MATRICES, OUTPUT, VALUE, Matrix
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer, checked
from edge_transact.checkpoint.layout import ROPE_PAIRS, layer_shapes, tensor_shapes
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.rotation import Rotation
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import CONSUMERS, GROUPS, UNITS, VALUES, Module, Unit, units_of
from edge_transact.widths import LayerWidths

LAYERS_PREFIX = "model.layers."

NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class LayerSelection:
    """What a layer keeps of the source's layer; all indices are int64 and ascending.

    Row ``i`` of `queries`, `qk_pairs` and `v_dims` is what group ``groups[i]`` keeps.

    Attributes:
        groups: KV heads, each with the query heads that share it (under MHA, one); ``[groups]``.
        queries: Query heads inside each group, counted from its first; ``[groups, queries per group]``.
        qk_pairs: RoPE pairs of each KV head and its query heads, counted among those that the source's layer has:
            pair ``i`` is dims ``(i, i + qk_head_dim / 2)`` of its heads; ``[groups, qk_head_dim / 2]``.
        v_dims: Value dims of each KV head; ``[groups, v_head_dim]``.
        intermediate: MLP dims; ``[intermediate_size]``.
        rotation: What `v_dims` become, if they aren't kept as they are: fewer other dims.
    """

    groups: torch.Tensor
    queries: torch.Tensor
    qk_pairs: torch.Tensor
    v_dims: torch.Tensor
    intermediate: torch.Tensor
    rotation: Rotation | None = None

    @staticmethod
    def everything(layer: LayerWidths) -> LayerSelection:
        """The selection that keeps the complete layer."""

        def all_of(unit: Unit) -> torch.Tensor:
            indices = torch.arange(unit.count(layer))
            return indices.repeat(layer.num_key_value_heads, 1) if unit.place == "in group" else indices

        return _by_unit(all_of)

    def of(self, unit: Unit) -> torch.Tensor:
        """What is kept of a unit: ``[units]``, or ``[groups, units]`` for units inside KV groups."""
        indices: torch.Tensor = getattr(self, unit.kept)
        return indices

    def then(self, further: LayerSelection) -> LayerSelection:
        """This selection, cut again by one whose indices count what this one keeps."""

        def both(unit: Unit) -> torch.Tensor:
            kept, fewer = self.of(unit), further.of(unit)
            if unit.place != "in group":
                return kept[fewer]
            kept = kept[further.groups]
            return kept if unit is VALUES and self.rotation else kept.gather(1, fewer)

        rotation = further.rotation
        if self.rotation:
            earlier = self.rotation.chosen(further.groups, further.v_dims)
            rotation = earlier.then(rotation) if rotation else earlier
        return _by_unit(both, rotation)

    @property
    def widths(self) -> LayerWidths:
        return LayerWidths(
            num_attention_heads=self.queries.numel(),
            num_key_value_heads=len(self.groups),
            qk_head_dim=2 * self.qk_pairs.shape[1],
            v_head_dim=self.rotation.into.shape[1] if self.rotation else self.v_dims.shape[1],
            intermediate_size=len(self.intermediate),
        )


def _by_unit(chosen: Callable[[Unit], torch.Tensor], rotation: Rotation | None = None) -> LayerSelection:
    return LayerSelection(**{unit.kept: chosen(unit) for unit in UNITS.values()}, rotation=rotation)


def top_indices(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The int64 indices of the `count` highest of each row of `scores`, ascending; of equal ones, of the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[..., :count].sort().values


def select(scores: LayerScores, target: LayerWidths) -> LayerSelection:
    """The highest-scoring units of a layer, as many of each as `target` has.

    Each KV group that is kept keeps its own best query heads, value dims and RoPE pairs. Values are rotated only where
    they lose dims.
    """
    groups = top_indices(scores.of(GROUPS), target.num_key_value_heads)

    def best(unit: Unit) -> torch.Tensor:
        values = scores.of(unit)
        return top_indices(values[groups] if unit.place == "in group" else values, unit.count(target))

    chosen, dims = _by_unit(best), scores.v_dims.shape[1]
    if scores.rotation is None or target.v_head_dim in (0, dims):
        return chosen
    rotation = scores.rotation.chosen(groups, chosen.v_dims).orthonormal()
    return replace(chosen, v_dims=torch.arange(dims).repeat(len(groups), 1), rotation=rotation)


def pruned_tensors(
    checkpoint: Checkpoint, selections: Sequence[LayerSelection], replaced: Mapping[str, torch.Tensor] = NOTHING
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the pruned model, read and cut one at a time, in the stored dtype, unless it is `replaced`.

    The layers' tensors were checked when they were scored; the others are checked here.

    Raises:
        EdgeTransactError: The embedding, the last norm or `lm_head` holds NaN or infinity.
    """
    for name in tensor_shapes(checkpoint.plan.with_layers(selection.widths for selection in selections)):
        if name in replaced:
            yield name, replaced[name]
        elif name.startswith(LAYERS_PREFIX):
            number, _, part = name.removeprefix(LAYERS_PREFIX).partition(".")
            yield name, _cut(checkpoint, int(number), part, selections[int(number)])
        else:
            yield name, checked(checkpoint.tensor(name), f"{checkpoint.path}: {name}")


def pruned_layer(
    checkpoint: Checkpoint, index: int, selection: LayerSelection, replaced: Mapping[str, torch.Tensor] = NOTHING
) -> dict[str, torch.Tensor]:
    """The tensors of one pruned layer, named within the layer."""
    prefix = f"{LAYERS_PREFIX}{index}."
    return {
        part: replaced[prefix + part] if prefix + part in replaced else _cut(checkpoint, index, part, selection)
        for part in layer_shapes(checkpoint.plan, selection.widths)
    }


def cut_layer(model: LayerwiseModel, index: int, selection: LayerSelection) -> DecoderLayer:
    """A layer of a model as a module, cut, with the model's `replaced` tensors; `LayerwiseModel.load` checks them."""
    tensors = pruned_layer(model.checkpoint, index, selection, model.replaced)
    return model.load(index, selection.widths, tensors)


def shifted_biases(
    tensors: Mapping[str, torch.Tensor],
    widths: LayerWidths,
    selection: LayerSelection,
    means: Mapping[Module, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The fp32 biases of `CONSUMERS`, plus what the dims that are cut contribute on average (FLAP).

    They have one element per hidden dim, so later cuts leave them alone. A model without biases gets none.

    Args:
        tensors: The layer as it was scored, as `pruned_layer` gives it.
        selection: What is kept of it, counted in it.
    """
    shifted = {}
    for module, mean in means.items():
        consumer = CONSUMERS[module]
        bias = tensors.get(f"{consumer.name}.bias")
        if bias is None:
            continue
        stays = kept_inputs(consumer, widths, selection)
        known = mean[stays]
        if consumer is OUTPUT and selection.rotation:
            known = selection.rotation.projected(known)
        removed = mean.index_add(0, stays, -known)
        shifted[f"{consumer.name}.bias"] = bias.float() + tensors[f"{consumer.name}.weight"].float() @ removed
    return shifted


def kept_inputs(matrix: Matrix, layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The input features that a matrix keeps, int64 ``[input features]``."""
    return _features(units_of(matrix.columns), layer, kept)


def _cut(checkpoint: Checkpoint, index: int, part: str, selection: LayerSelection) -> torch.Tensor:
    """A layer's tensor, cut: ``[output features, input features]`` of a weight, ``[output features]`` of a bias.

    `layout.ROPE_PAIRS` counts in heads before any pruning.
    """
    if part == ROPE_PAIRS:
        return checkpoint.rope_pairs(index)[selection.groups].gather(1, selection.qk_pairs)
    layer, tensor = checkpoint.plan.layers[index], checkpoint.tensor(f"{LAYERS_PREFIX}{index}.{part}")
    name, _, kind = part.rpartition(".")
    matrix = MATRICES.get(name)
    if matrix and (rows := units_of(matrix.rows)):
        tensor = tensor[_features(rows, layer, selection)]
    if matrix and kind == "weight" and units_of(matrix.columns):
        tensor = tensor[:, kept_inputs(matrix, layer, selection)]
    if selection.rotation and matrix is VALUE:
        return selection.rotation.of_values(tensor.movedim(0, -1)).movedim(-1, 0).contiguous()
    if selection.rotation and matrix is OUTPUT and kind == "weight":
        return selection.rotation.of_columns(tensor)
    return tensor


def _features(units: Sequence[Unit], layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The features that stay along an axis that units subdivide, outermost first; int64 ``[features]``."""
    index = torch.zeros((), dtype=torch.int64)
    for unit in units:
        dims = _dims(unit, layer, kept)
        if unit.place == "in group":
            # [groups, ...] of the outer units, with one more axis for this one.
            dims = dims.view(len(dims), *[1] * (index.dim() - 1), dims.shape[-1])
        index = index[..., None] * unit.width(layer) + dims
    return index.flatten()


def _dims(unit: Unit, layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The dims of what is kept of a unit: the first dim of each, then, of RoPE pairs, the second dim of each."""
    indices = kept.of(unit)
    return torch.cat([indices + part * unit.count(layer) for part in range(unit.dims_per_unit)], dim=-1)
