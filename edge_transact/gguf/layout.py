"""The places of a checkpoint's tensors in a GGUF file.

For LLaMA, llama.cpp rotates neighbouring dims of a head, and transformers dims that are half a head apart, so the rows
of q and k are interleaved by head (``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf.py``). llama.cpp has one
head dim for q, k and v of all layers: dims that were pruned from heads become zeros, which doesn't change the result.

``deci`` has layers without attention or MLP, but its graph (``src/models/deci.cpp``) leaves out all of a layer without
MLP, reads the head dim only where layer 0 has heads (``load_hparams``), and selects the tokens that have logits in the
last layer's MLP. Such layers get an MLP or a head of zeros (`computed`, `fillers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_transact.architecture.families import FAMILIES, order_in_heads
from edge_transact.architecture.matrices import KEY, OUTPUT, QUERY, VALUE
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.gguf.q4_0 import BLOCK_WEIGHTS
from edge_transact.runtimes import gguf_architecture
from edge_transact.widths import LayerWidths, WidthPlan

VARIABLE = "deci"
"""llama.cpp's architecture of a LLaMA whose layers differ in width."""

INTERLEAVED = ("llama", VARIABLE, "smollm3")
"""Its architectures that rotate neighbouring dims; the others rotate dims that are half of the rotated ones apart."""

ROPE_FREQS = "rope_freqs.weight"
"""The divisors of the frequencies in Llama 3's scaling, float32 ``[head_dim / 2]``."""

CONFIG, PAIRS, PROVENANCE = "edge_transact.config", "edge_transact.rope_pairs", "edge_transact.provenance"
"""Our own metadata, as JSON: the checkpoint's ``config.json`` and its layers' RoPE pairs by index, from which the
checkpoint is restored without zeros in its heads, and how the model was pruned."""

_LENGTHS, _FACTORS = ("long", "short"), "rope_factors_{}.weight"

BLOCKS_FILE = "q4_0.safetensors"
"""The blocks of a converted checkpoint's Q4_0 matrices, uint8 ``[rows, groups, 18]``: a file beside it."""


@dataclass(frozen=True)
class Place:
    """The place of a checkpoint's tensor in a GGUF tensor that is at least as large.

    Attributes:
        shape: The GGUF tensor's shape, outputs first.
        rows: The GGUF row of each of the checkpoint's rows; `None` for the same.
        columns: The GGUF column of each of the checkpoint's columns; `None` for the same.
        first: The row of the GGUF tensor where it begins, if others of the checkpoint are above it.
    """

    name: str
    shape: tuple[int, ...]
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    first: int = 0

    @property
    def group_columns(self) -> np.ndarray | None:
        """`columns` in groups of 32, if these stay together (`keeps_groups`); `None` for the same."""
        return None if self.columns is None else self.columns[::BLOCK_WEIGHTS] // BLOCK_WEIGHTS

    @property
    def keeps_groups(self) -> bool:
        """Whether groups of 32 columns are groups of 32 columns in GGUF, too."""
        if self.shape[-1] % BLOCK_WEIGHTS or (self.columns is not None and len(self.columns) % BLOCK_WEIGHTS):
            return False
        if self.columns is None:
            return True
        groups = self.columns.reshape(-1, BLOCK_WEIGHTS)
        return bool((groups == groups[:, :1] // BLOCK_WEIGHTS * BLOCK_WEIGHTS + np.arange(BLOCK_WEIGHTS)).all())

    def put_rows(self, tensor: np.ndarray) -> np.ndarray:
        """Rows ``[rows, ...]`` at their places, with zeros between them."""
        return tensor if self.rows is None else _spread(tensor, self.rows, self.shape[0])

    def take_rows(self, tensor: np.ndarray) -> np.ndarray:
        return tensor if self.rows is None else tensor[self.rows]


def put_columns(tensor: np.ndarray, columns: np.ndarray | None, count: int) -> np.ndarray:
    """Columns ``[rows, columns, ...]`` at their places of `count`, with zeros between them."""
    return tensor if columns is None else _spread(tensor.swapaxes(0, 1), columns, count).swapaxes(0, 1)


def _spread(tensor: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    spread = np.zeros((count, *tensor.shape[1:]), tensor.dtype)
    spread[places] = tensor
    return spread


def places(plan: WidthPlan, rope_pairs: Sequence[np.ndarray], architecture: str | None = None) -> dict[str, Place]:
    """The place of every tensor of a checkpoint except its tables of RoPE pairs, which aren't tensors in GGUF.

    `rope_pairs` are each layer's by KV head, ``[num_key_value_heads, qk_head_dim / 2]``. `architecture` is a file's, by
    default the plan's.
    """
    import gguf

    architecture = architecture or gguf_architecture(plan)[0]
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], len(plan.layers))
    family = next((each for each in FAMILIES.values() if each.gguf == architecture), None)
    fused = {part.name: whole for whole, parts in family.fused.items() for part in parts} if family else {}
    others = fused | {f".{ours}.": f".{theirs}." for ours, theirs in family.norms.items()} if family else {}
    dims = _dims(plan, architecture)
    rows: dict[str, np.ndarray] = {}
    columns: dict[str, np.ndarray] = {}
    for index, (layer, pairs) in enumerate(zip(plan.layers, rope_pairs, strict=True)):
        if not layer.has_attention:
            continue
        prefix = f"model.layers.{index}."
        rows[prefix + QUERY.name] = _rows(np.repeat(pairs, layer.q_per_kv, axis=0), dims)
        rows[prefix + KEY.name] = _rows(pairs, dims)
        if layer.v_head_dim != plan.head_dim:
            rows[prefix + VALUE.name] = _first_dims(layer.num_key_value_heads, layer.v_head_dim, plan.head_dim)
            columns[prefix + OUTPUT.name] = _first_dims(layer.num_attention_heads, layer.v_head_dim, plan.head_dim)
    found, filled = {}, Counter[str]()
    for name, shape in tensor_shapes(_whole_heads(plan)).items():
        module, _, kind = name.rpartition(".")
        # The tensor in the family's own checkpoint that holds this one.
        own = next((name.replace(part, whole) for part, whole in others.items() if part in name), name)
        stored = str(names.get_name(own, try_suffixes=(".weight", ".bias")))
        found[name] = Place(
            name=stored,
            shape=shape,
            rows=rows.get(module),
            columns=columns.get(module) if kind == "weight" else None,
            first=filled[stored],
        )
        filled[stored] += shape[0]
    return found


def _whole_heads(plan: WidthPlan) -> WidthPlan:
    dims = {"qk_head_dim": plan.head_dim, "v_head_dim": plan.head_dim}
    return plan.with_layers(replace(layer, **dims) for layer in plan.layers)


def computed(plan: WidthPlan) -> WidthPlan:
    """The plan as llama.cpp computes it: with unpruned head dims, and with what `fillers` add."""
    layers = list(_whole_heads(plan).layers)
    for index, layer in enumerate(layers):
        if not layer.has_mlp and (layer.has_attention or index == len(layers) - 1):
            layers[index] = replace(layer, intermediate_size=BLOCK_WEIGHTS)
    if not layers[0].has_attention:
        mlp = layers[0].intermediate_size
        layers[0] = LayerWidths(plan.q_per_kv, 1, plan.head_dim, plan.head_dim, mlp)
    return plan.with_layers(layers)


def fillers(plan: WidthPlan) -> dict[str, tuple[int, ...]]:
    """The tensors of zeros that llama.cpp needs where a layer has no attention or no MLP: GGUF names and shapes."""
    import gguf

    kind = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[gguf_architecture(plan)[0]]
    names = gguf.get_tensor_name_map(kind, len(plan.layers))
    known, shapes = tensor_shapes(plan), tensor_shapes(computed(plan))
    return {
        str(names.get_name(name, try_suffixes=(".weight", ".bias"))): shape
        for name, shape in shapes.items()
        if name not in known
    }


def _dims(plan: WidthPlan, architecture: str) -> np.ndarray:
    """llama.cpp's dim of each dim of a query or key head: pairs side by side, or as in the family's checkpoint."""
    if architecture in INTERLEAVED:
        return np.arange(plan.head_dim).reshape(-1, 2).T.reshape(-1)
    return np.array(order_in_heads(plan) or range(plan.head_dim))


def _rows(pairs: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """The rows in llama.cpp of heads that are stored half-split: the first dims of all `pairs`, then the others."""
    heads = len(dims) * np.arange(len(pairs))[:, None]
    return (heads + dims[np.concatenate((pairs, pairs + len(dims) // 2), axis=1)]).reshape(-1)


def _first_dims(heads: int, dims: int, head_dim: int) -> np.ndarray:
    return (head_dim * np.arange(heads)[:, None] + np.arange(dims)).reshape(-1)


def rope_tensors(theta: float, scaling: Mapping[str, Any] | None, head_dim: int) -> dict[str, np.ndarray]:
    """The tensors in which llama.cpp has RoPE scaling by dim, float32 ``[rotated dims / 2]``."""
    if scaling and scaling["rope_type"] == "llama3":
        return {ROPE_FREQS: rope_divisors(theta, scaling, head_dim)}
    if scaling and scaling["rope_type"] == "longrope":
        return {_FACTORS.format(name): np.array(scaling[f"{name}_factor"], np.float32) for name in _LENGTHS}
    return {}


def stored_factors(tensors: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """LongRoPE's settings among a file's tensors; empty if it has none."""
    stored = {name: tensors.get(_FACTORS.format(name)) for name in _LENGTHS}
    return {f"{name}_factor": factors.tolist() for name, factors in stored.items() if factors is not None}


def rope_divisors(theta: float, scaling: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """`ROPE_FREQS` of Llama 3's scaling: the plain frequencies divided by transformers' scaled ones."""
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled = LlamaConfig(head_dim=head_dim, rope_parameters={**scaling, "rope_theta": theta})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled)
    return (theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim) / frequencies).numpy()
