"""The widths of a model, layer by layer: the one vocabulary that every stage speaks.

TransAct (Shen et al., Findings of ACL 2024) shrinks the *transitional* activations, inside attention and inside the
MLP, and leaves the hidden size alone. So a pruned LLaMA is described by five numbers a layer, `LayerWidths`, and a
handful of numbers that all layers share, `WidthPlan`. A plan is read from a checkpoint's ``config.json``, changed by
pruning, written back as transformers' sparse ``per_layer_config``, and read again by the MLC model definition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError, UsageError


@dataclass(frozen=True)
class LayerWidths:
    """The five widths of one decoder layer.

    Attributes:
        num_attention_heads: Query heads.
        num_key_value_heads: Key-value heads (KV groups); divides `num_attention_heads`.
        qk_head_dim: Dims of a query or key head, RoPE pairs ``(i, i + qk_head_dim / 2)``: even.
        v_head_dim: Dims of a value head, and of its part of `o_proj`'s input.
        intermediate_size: Dims of the gated MLP's inner activation, `down_proj`'s input.

    Raises:
        UsageError: A width is not a positive integer, or the widths contradict each other.
    """

    num_attention_heads: int
    num_key_value_heads: int
    qk_head_dim: int
    v_head_dim: int
    intermediate_size: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}", fix=f"Give {name} as a whole number of at least 1.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UsageError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}",
                fix="Every KV group serves the same number of query heads.",
            )
        if self.qk_head_dim % 2:
            raise UsageError(
                f"qk_head_dim {self.qk_head_dim} is odd", fix="RoPE rotates pairs of dims: give an even number."
            )

    @property
    def q_per_kv(self) -> int:
        """Query heads that share one key-value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def attention_size(self) -> int:
        """Dims of the concatenated head outputs, `o_proj`'s input."""
        return self.num_attention_heads * self.v_head_dim


CACHE_HEAD_DIM_MULTIPLE = 16
"""What attention kernels take well: TVM's sum 16 dims of a head at a time, ours two vectors of 4, 8 or 16."""

WIDTH_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(LayerWidths))


@dataclass(frozen=True)
class WidthPlan:
    """The widths of a whole LLaMA: what pruning keeps for all layers, and `LayerWidths` for each.

    Attributes:
        hidden_size: Dims of the residual stream; never pruned.
        vocab_size: Rows of the embedding and of `lm_head`.
        tie_word_embeddings: `lm_head` is the embedding.
        attention_bias: q, k, v and o projections have biases.
        mlp_bias: gate, up and down projections have biases.
        layers: The widths of layer 0, 1, ...
        head_dim: Dims that a head had in the model before any pruning: they set the softmax scale
            ``head_dim ** -0.5`` and the RoPE frequencies, which pairs that stay keep. 0 stands for the widest
            `qk_head_dim`.

    Raises:
        UsageError: No layers, layers of different q-per-kv ratios, or a `qk_head_dim` above `head_dim`.
    """

    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    layers: tuple[LayerWidths, ...]
    head_dim: int = 0

    def __post_init__(self) -> None:
        if not self.layers:
            raise UsageError("a plan without layers", fix="Give the widths of at least one layer.")
        ratios = sorted({layer.q_per_kv for layer in self.layers})
        if len(ratios) > 1:
            raise UsageError(
                f"layers with different numbers of query heads per KV head: {ratios}",
                fix="The KV cache has one ratio for the whole model: use the same in every layer.",
            )
        widest = max(layer.qk_head_dim for layer in self.layers)
        object.__setattr__(self, "head_dim", self.head_dim or widest)
        if widest > self.head_dim:
            raise UsageError(
                f"qk_head_dim {widest} is more than the model's head_dim {self.head_dim}",
                fix="RoPE has no frequencies for more dims: give head_dim or less.",
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WidthPlan:
        """The plan that a LLaMA ``config.json`` describes.

        Args:
            config: The parsed file, with or without a sparse ``per_layer_config``.

        Raises:
            EdgeTransactError: A field is missing or the widths contradict each other.
        """
        try:
            heads = config["num_attention_heads"]
            head_dim = config.get("head_dim") or config["hidden_size"] // heads
            base = LayerWidths(
                num_attention_heads=heads,
                num_key_value_heads=config.get("num_key_value_heads") or heads,
                qk_head_dim=config.get("qk_head_dim") or head_dim,
                v_head_dim=config.get("v_head_dim") or head_dim,
                intermediate_size=config["intermediate_size"],
            )
            overrides = {int(index): dict(layer) for index, layer in (config.get("per_layer_config") or {}).items()}
            return cls(
                hidden_size=config["hidden_size"],
                vocab_size=config["vocab_size"],
                tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
                attention_bias=bool(config.get("attention_bias", False)),
                mlp_bias=bool(config.get("mlp_bias", False)),
                layers=tuple(
                    replace(
                        base, **{key: value for key, value in overrides.get(index, {}).items() if key in WIDTH_FIELDS}
                    )
                    for index in range(config["num_hidden_layers"])
                ),
                head_dim=head_dim,
            )
        except KeyError as error:
            raise EdgeTransactError(
                f"config.json has no {error.args[0]!r}", fix="Use a LLaMA checkpoint's config.json."
            ) from error

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def q_per_kv(self) -> int:
        """Query heads per KV head, the same in every layer."""
        return self.layers[0].q_per_kv

    def has_rope_pairs(self, layer: LayerWidths) -> bool:
        """Whether a layer of this model lost RoPE pairs, so that it carries a table of those that it kept."""
        return layer.qk_head_dim < self.head_dim

    @property
    def has_own_head_dims(self) -> bool:
        """Whether some layer's heads lost dims, so that the KV cache pads them."""
        dims = {size for layer in self.layers for size in (layer.qk_head_dim, layer.v_head_dim)}
        return dims != {self.head_dim}

    @property
    def cache_head_dim(self) -> int:
        """The KV cache's one head dim: the widest of any layer's q, k and v heads, to which narrower ones are padded.

        Where it is less than the original heads', it is a multiple of `CACHE_HEAD_DIM_MULTIPLE`.
        """
        widest = max(max(layer.qk_head_dim, layer.v_head_dim) for layer in self.layers)
        padded = math.ceil(widest / CACHE_HEAD_DIM_MULTIPLE) * CACHE_HEAD_DIM_MULTIPLE
        return min(padded, max(widest, self.head_dim))

    @property
    def virtual_num_key_value_heads(self) -> int:
        """KV heads of one virtual KV layer: the largest number that divides every layer's."""
        return math.gcd(*(layer.num_key_value_heads for layer in self.layers))

    @property
    def virtual_layers(self) -> tuple[int, ...]:
        """Virtual KV layers of each layer.

        MLC's paged KV cache has one head count for all layers. Attention is independent across KV groups, so a
        layer of ``k * g`` KV heads is stored as ``k`` cache layers of ``g`` heads each, and the cache is exactly
        as large as the widths.
        """
        return tuple(layer.num_key_value_heads // self.virtual_num_key_value_heads for layer in self.layers)

    @property
    def num_virtual_layers(self) -> int:
        """Layers of the KV cache, and attention launches a token."""
        return sum(self.virtual_layers)

    def with_layers(self, layers: Iterable[LayerWidths]) -> WidthPlan:
        """The same model with other widths."""
        return replace(self, layers=tuple(layers))

    def to_list(self) -> list[dict[str, int]]:
        """The widths as ``--json`` prints and ``--widths`` reads them: one object a layer."""
        return [asdict(layer) for layer in self.layers]

    @property
    def widest(self) -> LayerWidths:
        """The widest layer, field by field: the global widths of ``config.json``, an upper bound for every layer."""
        return LayerWidths(*(max(getattr(layer, name) for layer in self.layers) for name in WIDTH_FIELDS))

    def per_layer_config(self) -> dict[str, dict[str, int]]:
        """transformers' sparse map: for each layer, the widths that differ from the global ones, those of `widest`."""
        base = asdict(self.widest)
        sparse = {
            str(index): {key: value for key, value in asdict(layer).items() if value != base[key]}
            for index, layer in enumerate(self.layers)
        }
        return {index: layer for index, layer in sparse.items() if layer}


def read_widths(path: Path, source: WidthPlan) -> WidthPlan:
    """The plan in a ``--widths`` file.

    Args:
        path: JSON: one object a layer, with any of the five `WIDTH_FIELDS`; missing keys are the source's.
        source: The plan of the model to be pruned. Widths may not exceed it.

    Raises:
        UsageError: The file isn't that, has the wrong number of layers, an unknown key, or a width that is too
            large, named by layer and field.
    """
    try:
        rows = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", fix="Give --widths a JSON file: one object a layer.") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{path} is not JSON: {error}", fix="Give --widths a JSON list of objects, one a layer."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{path} is not a JSON list of objects", fix="Write one object a layer, as `inspect --json` prints."
        )
    if len(rows) != source.num_hidden_layers:
        raise UsageError(
            f"{path} has {len(rows)} layers, the model has {source.num_hidden_layers}",
            fix="Write one object a layer; an empty one keeps the layer's widths.",
        )
    return source.with_layers(
        _narrowed(layer, row, f"{path}, layer {index}")
        for index, (layer, row) in enumerate(zip(source.layers, rows, strict=True))
    )


def _narrowed(layer: LayerWidths, row: Mapping[str, Any], where: str) -> LayerWidths:
    unknown = sorted(set(row) - set(WIDTH_FIELDS))
    if unknown:
        raise UsageError(f"{where}: unknown {unknown[0]!r}", fix=f"The fields are {', '.join(WIDTH_FIELDS)}.")
    # A file that says how many KV heads stay means the query heads that they serve, and the other way round.
    values = dict(row)
    heads, groups = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if isinstance(groups, int) and heads is None:
        values["num_attention_heads"] = groups * layer.q_per_kv
    if isinstance(heads, int) and groups is None:
        if heads % layer.q_per_kv:
            raise UsageError(
                f"{where}: num_attention_heads {heads} is not a multiple of {layer.q_per_kv} (query heads per KV head)",
                fix="Heads are cut by whole KV groups.",
            )
        values["num_key_value_heads"] = heads // layer.q_per_kv
    try:
        narrowed = replace(layer, **values)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", fix=error.fix) from error
    for name in WIDTH_FIELDS:
        if getattr(narrowed, name) > getattr(layer, name):
            raise UsageError(
                f"{where}: {name} {getattr(narrowed, name)} is more than the model's {getattr(layer, name)}",
                fix="Pruning only narrows: give the model's width or less.",
            )
    return narrowed


def describe(plan: WidthPlan) -> Sequence[str]:
    """For each of the five widths, ``name: value`` or ``name: least..most``."""
    lines = []
    for name in WIDTH_FIELDS:
        values = [getattr(layer, name) for layer in plan.layers]
        low, high = min(values), max(values)
        lines.append(f"{name}: {low}" if low == high else f"{name}: {low}..{high}")
    return lines
