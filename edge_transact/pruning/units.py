"""What pruning can remove: one table, read by every stage from the command line, without torch, to surgery.

A new unit is an entry here, and a curve where a method predicts one (`scores.PredictedLosses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from edge_transact.architecture.matrices import DOWN, OUTPUT, Matrix
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths

Module = Literal["attention", "mlp"]
MODULES: tuple[Module, ...] = get_args(Module)

CONSUMERS: Mapping[Module, Matrix] = {"attention": OUTPUT, "mlp": DOWN}
"""The matrix of each module that consumes its transitional activation."""

HEAD_DIM_STEP = 8
"""Dims inside heads are cut in multiples of this."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A kind of thing that pruning can remove.

    Attributes:
        name: Its name in ``--units``.
        title: What the report calls it.
        field: The size of `LayerWidths` that it reduces. It is an axis of the matrices whose rows or columns have it.
        kept: The field of `LayerSelection` that lists which ones a layer keeps.
        score: The field of `LayerScores` that ranks it; by default, it is called as `kept`.
        module: Where its parameters are. The measured sensitivity of that module scales its sensitivity curve.
        place: Where it is counted: in the layer, as a KV group, or inside each KV group.
        figure: The name of the report's figure of its scores; empty for none.
        dims_per_unit: Dims of `field` that one unit takes: 2 for a RoPE pair, whose dims are half a head apart.
        step: The allocation narrows `field` to multiples of this.
        least: The allocation leaves at least this many dims.
        is_default: Whether allocations that trade units against each other cut it when ``--units`` isn't given.
        has_measured_curve: Whether measured sensitivity alone gives it a curve; otherwise the method must predict one.
        all_layers: Whether every layer must keep the same number.
        sets_cache_head_dim: Whether the KV cache's one head dim depends on it.
        narrow: How a layer is narrowed, where that takes more than changing `field`.
    """

    name: str
    title: str
    field: str
    kept: str
    score: str = ""
    module: Module = "attention"
    place: Literal["layer", "group", "in group"] = "in group"
    figure: str = ""
    dims_per_unit: int = 1
    step: int = 1
    least: int = 1
    is_default: bool = True
    has_measured_curve: bool = False
    all_layers: bool = False
    sets_cache_head_dim: bool = False
    narrow: Callable[[LayerWidths, int], LayerWidths] | None = None

    def width(self, layer: LayerWidths) -> int:
        width: int = getattr(layer, self.field)
        return width

    def count(self, layer: LayerWidths) -> int:
        """How many of these units the layer has; inside each KV group, if that is its place."""
        return self.width(layer) // self.dims_per_unit

    def narrowed(self, layer: LayerWidths, width: int) -> LayerWidths:
        if self.narrow is not None:
            return self.narrow(layer, width)
        return replace(layer, **{self.field: width})


MLP = Unit(
    name="mlp",
    title="MLP dims",
    field="intermediate_size",
    module="mlp",
    place="layer",
    kept="intermediate",
    figure="mlp",
    has_measured_curve=True,
)
"""MLP dims. Their step is the bucket that the user chooses."""

GROUPS = Unit(
    name="groups",
    title="KV groups",
    field="num_key_value_heads",
    place="group",
    kept="groups",
    score="heads",
    has_measured_curve=True,
    narrow=lambda layer, width: replace(layer, num_attention_heads=width * layer.q_per_kv, num_key_value_heads=width),
)
"""KV heads, each with the query heads that share it. Layers may differ, at the price of more attention calls."""

QUERIES = Unit(
    name="queries",
    title="query heads",
    field="q_per_kv",
    kept="queries",
    score="heads",
    figure="heads",
    is_default=False,
    has_measured_curve=True,
    all_layers=True,
    narrow=lambda layer, width: replace(layer, num_attention_heads=width * layer.num_key_value_heads),
)
"""Query heads inside every KV group. The KV cache has one ratio of query heads to KV heads for the whole model."""

VALUES = Unit(
    name="values",
    title="value dims",
    field="v_head_dim",
    kept="v_dims",
    figure="v-dims",
    step=HEAD_DIM_STEP,
    least=CACHE_HEAD_DIM_MULTIPLE,
    sets_cache_head_dim=True,
)

QUERIES_KEYS = Unit(
    name="queries-keys",
    title="RoPE pairs of queries and keys",
    field="qk_head_dim",
    kept="qk_pairs",
    figure="qk-pairs",
    dims_per_unit=2,
    step=HEAD_DIM_STEP,
    least=CACHE_HEAD_DIM_MULTIPLE,
    sets_cache_head_dim=True,
)

UNITS: Mapping[str, Unit] = {unit.name: unit for unit in (MLP, GROUPS, QUERIES, VALUES, QUERIES_KEYS)}
"""By name. Where several are cut at once, they are cut in this order."""

DEFAULT_UNITS = tuple(name for name, unit in UNITS.items() if unit.is_default)
MEASURED_UNITS = tuple(name for name, unit in UNITS.items() if unit.has_measured_curve)


def units_of(axes: Sequence[str]) -> list[Unit]:
    """The units along the rows or columns of a matrix, the outermost first (`architecture.matrices.Matrix`)."""
    return [unit for size in axes for unit in UNITS.values() if unit.field == size]
