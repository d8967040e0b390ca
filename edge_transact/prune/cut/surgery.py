"""Cuts a checkpoint's tensors down to what a selection keeps, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.finite import is_finite
from edge_transact.checkpoint.layout import ROPE_PAIRS
from edge_transact.errors import EdgeTransactError
from edge_transact.prune.cut.selection import LayerSelection
from edge_transact.widths import LayerWidths

LAYERS_PREFIX = "model.layers."
REPAIR = "Its weights are damaged, or overflow: convert them to float32 or download them again."
NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


def pruned_tensors(
    checkpoint: Checkpoint, selections: Sequence[LayerSelection], replaced: Mapping[str, torch.Tensor] = NOTHING
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the pruned model, read and cut one at a time, in the stored dtype.

    Layers are checked when they are scored, the rest is here.

    Args:
        checkpoint: The source.
        selections: What is kept of each layer.
        replaced: Tensors of the pruned model, by name, that stand in for what would be cut.

    Raises:
        EdgeTransactError: The embedding, the last norm or `lm_head` holds NaN or infinity.
    """
    for name in checkpoint.tensor_names():
        if name in replaced:
            yield name, replaced[name]
        elif name.startswith(LAYERS_PREFIX):
            number, _, part = name.removeprefix(LAYERS_PREFIX).partition(".")
            if part != ROPE_PAIRS:
                layer, selection = checkpoint.plan.layers[int(number)], selections[int(number)]
                yield name, _cut(part, checkpoint.tensor(name), layer, selection)
        else:
            tensor = checkpoint.tensor(name)
            if not is_finite(tensor):
                raise EdgeTransactError(f"{checkpoint.path}: {name} holds NaN or infinity", fix=REPAIR)
            yield name, tensor
    for index, selection in enumerate(selections):
        if (pairs := rope_pairs(checkpoint, index, selection)) is not None:
            yield f"{LAYERS_PREFIX}{index}.{ROPE_PAIRS}", pairs


def pruned_layer(
    checkpoint: Checkpoint, index: int, selection: LayerSelection, replaced: Mapping[str, torch.Tensor] = NOTHING
) -> dict[str, torch.Tensor]:
    """The tensors of one pruned layer, named from the layer on: ``self_attn.q_proj.weight``, ...

    Args:
        checkpoint: The source.
        index: Which layer.
        selection: What is kept of it.
        replaced: As of `pruned_tensors`.
    """
    prefix = f"{LAYERS_PREFIX}{index}."
    parts = [name.removeprefix(prefix) for name in checkpoint.tensor_names() if name.startswith(prefix)]
    layer = checkpoint.plan.layers[index]
    tensors = {
        part: replaced[prefix + part]
        if prefix + part in replaced
        else _cut(part, checkpoint.tensor(prefix + part), layer, selection)
        for part in parts
        if part != ROPE_PAIRS
    }
    if (pairs := rope_pairs(checkpoint, index, selection)) is not None:
        tensors[ROPE_PAIRS] = pairs
    return tensors


def shifted_biases(
    tensors: Mapping[str, torch.Tensor],
    widths: LayerWidths,
    selection: LayerSelection,
    means: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The biases of `o_proj` and `down_proj`, plus what the dims that go contribute on average (FLAP).

    The pipeline calls this for each layer of each shot with what was scored, and has the result replace the biases;
    these have an element a hidden dim, so that later cuts leave them alone.

    Args:
        tensors: The layer as it was scored, as `pruned_layer` gives it.
        widths: Of that layer.
        selection: What is kept of it, counted in it.
        means: ``attention_mean`` and ``intermediate_mean``, the means of the two projections' inputs: the extras of a
            method's `LayerScores`.

    Returns:
        The new biases in fp32, named as in `tensors`; none where there are no biases or no means.
    """
    shifted = {}
    for module, name in MEANS.items():
        bias = tensors.get(f"{module}.bias")
        if bias is None or name not in means:
            continue
        removed = means[name].index_fill(0, INPUTS[module](widths, selection), 0)
        shifted[f"{module}.bias"] = bias.float() + tensors[f"{module}.weight"].float() @ removed
    return shifted


def rope_pairs(checkpoint: Checkpoint, index: int, selection: LayerSelection) -> torch.Tensor | None:
    """The table `layout.ROPE_PAIRS` of a pruned layer, which counts the pairs of the heads before any pruning.

    Returns:
        int32 ``[groups, qk_head_dim / 2]``; `None` where all pairs are left, and the layer has no such table.
    """
    if not checkpoint.plan.has_rope_pairs(selection.widths):
        return None
    return checkpoint.rope_pairs(index)[selection.groups].gather(1, selection.qk_pairs)


def _cut(part: str, tensor: torch.Tensor, layer: LayerWidths, selection: LayerSelection) -> torch.Tensor:
    """A layer's tensor, cut: ``[output features, input features]`` of a weight, ``[output features]`` of a bias."""
    module, _, kind = part.rpartition(".")
    if module in OUTPUTS:
        return tensor[OUTPUTS[module](layer, selection)]
    if module in INPUTS and kind == "weight":
        return tensor[:, INPUTS[module](layer, selection)]
    return tensor


def _query_heads(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The query heads that stay, ``[groups, queries a group]``."""
    return kept.groups[:, None] * layer.q_per_kv + kept.queries


def _qk_dims(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The dims of a query or key head that stay, half-split, ``[groups, 1, qk_head_dim]``."""
    return torch.cat([kept.qk_pairs, kept.qk_pairs + layer.qk_head_dim // 2], dim=1)[:, None]


def _q(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    return (_query_heads(layer, kept)[..., None] * layer.qk_head_dim + _qk_dims(layer, kept)).flatten()


def _k(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    return (kept.groups[:, None, None] * layer.qk_head_dim + _qk_dims(layer, kept)).flatten()


def _v(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    return (kept.groups[:, None] * layer.v_head_dim + kept.v_dims).flatten()


def attention_dims(layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    """The dims of `o_proj`'s input that stay, int64 ``[attention_size]``."""
    return (_query_heads(layer, kept)[..., None] * layer.v_head_dim + kept.v_dims[:, None]).flatten()


def _mlp(_layer: LayerWidths, kept: LayerSelection) -> torch.Tensor:
    return kept.intermediate


Cut = Callable[[LayerWidths, LayerSelection], torch.Tensor]

OUTPUTS: dict[str, Cut] = {
    "self_attn.q_proj": _q,
    "self_attn.k_proj": _k,
    "self_attn.v_proj": _v,
    "mlp.gate_proj": _mlp,
    "mlp.up_proj": _mlp,
}
"""The projections that lose output features, and which of the source's they keep."""

INPUTS: dict[str, Cut] = {"self_attn.o_proj": attention_dims, "mlp.down_proj": _mlp}
"""The projections that lose input features; their biases stay."""

MEANS: dict[str, str] = {"self_attn.o_proj": "attention_mean", "mlp.down_proj": "intermediate_mean"}
"""What `LayerScores.extra` calls the means of their inputs."""
