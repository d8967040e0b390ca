"""Cuts a checkpoint's tensors down to what a selection keeps, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.prune.selection import LayerSelection
from edge_transact.widths import LayerWidths

LAYERS_PREFIX = "model.layers."


def pruned_tensors(checkpoint: Checkpoint, selections: Sequence[LayerSelection]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the pruned model, read and cut one at a time, in the stored dtype."""
    for name in checkpoint.tensor_names():
        tensor = checkpoint.tensor(name)
        if name.startswith(LAYERS_PREFIX):
            index, _, part = name.removeprefix(LAYERS_PREFIX).partition(".")
            tensor = _cut(part, tensor, checkpoint.plan.layers[int(index)], selections[int(index)])
        yield name, tensor


def pruned_layer(checkpoint: Checkpoint, index: int, selection: LayerSelection) -> dict[str, torch.Tensor]:
    """The tensors of one pruned layer, named from the layer on: ``self_attn.q_proj.weight``, ..."""
    prefix = f"{LAYERS_PREFIX}{index}."
    parts = [name.removeprefix(prefix) for name in checkpoint.tensor_names() if name.startswith(prefix)]
    layer = checkpoint.plan.layers[index]
    return {part: _cut(part, checkpoint.tensor(prefix + part), layer, selection) for part in parts}


def _cut(part: str, tensor: torch.Tensor, layer: LayerWidths, selection: LayerSelection) -> torch.Tensor:
    """A layer's tensor, cut: ``[output features, input features]`` of a weight, ``[output features]`` of a bias."""
    module, _, kind = part.rpartition(".")
    if module in OUTPUTS:
        return tensor[OUTPUTS[module](layer, selection)]
    if module in INPUTS and kind == "weight":
        return tensor[:, INPUTS[module](layer, selection)]
    return tensor


def _blocks(indices: torch.Tensor, size: int) -> torch.Tensor:
    """The dims of the blocks `indices`, each of `size` dims: ``[len(indices) * size]``."""
    return (indices[:, None] * size + torch.arange(size)).flatten()


Cut = Callable[[LayerWidths, LayerSelection], torch.Tensor]

OUTPUTS: dict[str, Cut] = {
    "self_attn.q_proj": lambda layer, kept: _blocks(kept.groups, layer.q_per_kv * layer.qk_head_dim),
    "self_attn.k_proj": lambda layer, kept: _blocks(kept.groups, layer.qk_head_dim),
    "self_attn.v_proj": lambda layer, kept: _blocks(kept.groups, layer.v_head_dim),
    "mlp.gate_proj": lambda layer, kept: kept.intermediate,
    "mlp.up_proj": lambda layer, kept: kept.intermediate,
}
"""The projections that lose output features, and which of the source's they keep."""

INPUTS: dict[str, Cut] = {
    "self_attn.o_proj": lambda layer, kept: _blocks(kept.groups, layer.q_per_kv * layer.v_head_dim),
    "mlp.down_proj": lambda layer, kept: kept.intermediate,
}
"""The projections that lose input features; their biases stay."""
