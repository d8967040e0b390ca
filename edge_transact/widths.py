"""The widths of a model, layer by layer: the vocabulary of every stage.

TransAct (Shen et al., Findings of ACL 2024) shrinks the activations inside attention and inside the MLP, and keeps the
hidden size. A pruned LLaMA is described by five numbers per layer, `LayerWidths`, and a few that layers share,
`WidthPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.reading import read_json


@dataclass(frozen=True)
class LayerWidths:
    """The five widths of one decoder layer.

    A layer without heads has no attention, and all four widths of it are 0; one without MLP dims has no MLP. Neither
    has the norm before what it lacks.

    Attributes:
        num_attention_heads: Query heads.
        num_key_value_heads: Key-value heads (KV groups); divides `num_attention_heads`.
        qk_head_dim: Dims of a query or key head; even, because dims ``(i, i + qk_head_dim / 2)`` are a RoPE pair.
        v_head_dim: Dims of a value head.
        intermediate_size: Dims inside the MLP.

    Raises:
        UsageError: A width is not an integer or below 0, or the widths contradict each other.
    """

    num_attention_heads: int
    num_key_value_heads: int
    qk_head_dim: int
    v_head_dim: int
    intermediate_size: int

    def __post_init__(self) -> None:
        heads = {"num_attention_heads": self.num_attention_heads, "num_key_value_heads": self.num_key_value_heads}
        _require_sizes({**heads, "intermediate_size": self.intermediate_size}, least=0)
        if 0 in heads.values():
            if any(heads.values()):
                raise UsageError(
                    f"{heads['num_attention_heads']} query heads and {heads['num_key_value_heads']} KV heads",
                    fix="Set both to 0 for a layer without attention, or neither.",
                )
            object.__setattr__(self, "qk_head_dim", 0)
            object.__setattr__(self, "v_head_dim", 0)
            return
        _require_sizes({"qk_head_dim": self.qk_head_dim, "v_head_dim": self.v_head_dim})
        if self.num_attention_heads % self.num_key_value_heads:
            raise UsageError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}",
                fix="Every KV group serves the same number of query heads.",
            )
        if self.qk_head_dim % 2:
            raise UsageError(
                f"qk_head_dim {self.qk_head_dim} is odd", fix="RoPE rotates pairs of dims: use an even number."
            )

    @property
    def has_attention(self) -> bool:
        """Whether the layer has heads."""
        return self.num_key_value_heads > 0

    @property
    def has_mlp(self) -> bool:
        """Whether the layer has MLP dims."""
        return self.intermediate_size > 0

    @property
    def q_per_kv(self) -> int:
        """Query heads that share one key-value head; 0 without attention."""
        return self.num_attention_heads // self.num_key_value_heads if self.has_attention else 0

    @property
    def attention_size(self) -> int:
        """Dims of the concatenated value heads, which attention's output projection reads."""
        return self.num_attention_heads * self.v_head_dim


MOST_LAYERS, MOST_HEAD_DIM = 1000, 1 << 14
"""Bounds for files from outside, far beyond those of models."""

CACHE_HEAD_DIM_MULTIPLE = 16
"""What attention kernels are fast on: TVM's sum 16 dims of a head at a time, ours two vectors of 4, 8 or 16."""

ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""The activations of an MLP's gate that are computed."""

PAIRS_ARE_NORMED = "an RMSNorm reads all dims of a query or key head, so that none of them can go"

WIDTH_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(LayerWidths))


@dataclass(frozen=True)
class WidthPlan:
    """The widths of all layers, plus the sizes that the layers share.

    Attributes:
        hidden_size: Dims of the residual stream; never pruned.
        vocab_size: Rows of the embedding and of `lm_head`.
        tie_word_embeddings: Whether `lm_head` is the embedding.
        attention_bias: Whether the projections to q, k and v have biases.
        mlp_bias: Whether the MLP's projections have biases.
        layers: The widths of layer 0, 1, ...
        head_dim: Dims of a head before any pruning. They set the softmax scale ``head_dim ** -0.5`` and the RoPE
            frequencies, which the kept pairs keep. 0 stands for the widest `qk_head_dim`.
        attention_out_bias: Whether the projection of attention's output has a bias; `None` for `attention_bias`.
        use_qk_norm: Whether an RMSNorm over the head follows the projections to q and k.
        rotary_dim: Dims of a head that RoPE rotates, those of its first pairs; 0 stands for all.
        nope_layers: The layers without RoPE.
        rope_type: transformers' name of how RoPE's frequencies are scaled.
        hidden_act: transformers' name of the MLP's activation, one of `ACTIVATIONS`.
        use_output_norms: Whether an RMSNorm follows attention, and one the MLP, before their outputs are added.
        embedding_multiplier: The factor of the embedding's rows where they become hidden states.
        query_pre_attn_scalar: The number whose inverse square root is the softmax scale; 0 stands for `head_dim`.
        window_size: The last tokens, itself included, that a token attends to in `window_layers`.
        window_layers: The layers with a sliding window.
        local_rope_theta: The base of plain RoPE in `window_layers`; 0 if they have that of the others.

    Raises:
        UsageError: A size is not a positive integer, no layer has heads or MLP dims, their q-per-kv ratios differ, or a
            `qk_head_dim` is above `head_dim`, or below it with `use_qk_norm`.
    """

    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    layers: tuple[LayerWidths, ...]
    head_dim: int = 0
    attention_out_bias: bool | None = None
    use_qk_norm: bool = False
    rotary_dim: int = 0
    nope_layers: tuple[int, ...] = ()
    rope_type: str = "default"
    hidden_act: str = "silu"
    use_output_norms: bool = False
    embedding_multiplier: float = 1.0
    query_pre_attn_scalar: float = 0.0
    window_size: int = 0
    window_layers: tuple[int, ...] = ()
    local_rope_theta: float = 0.0

    def __post_init__(self) -> None:
        if self.attention_out_bias is None:
            object.__setattr__(self, "attention_out_bias", self.attention_bias)
        for name in ("nope_layers", "window_layers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # from JSON, a list
        if not self.layers:
            raise UsageError("the plan has no layers", fix="Give the widths of at least one layer.")
        ratios = sorted({layer.q_per_kv for layer in self.layers if layer.has_attention})
        for module, is_there in (("heads", ratios), ("MLP dims", any(layer.has_mlp for layer in self.layers))):
            if not is_there:
                raise UsageError(f"no layer has {module}", fix=f"Leave at least one layer its {module}.")
        if len(ratios) > 1:
            raise UsageError(
                f"layers with different numbers of query heads per KV head: {ratios}",
                fix="The KV cache has one ratio for the whole model: use the same one in every layer.",
            )
        widest = max(layer.qk_head_dim for layer in self.layers)
        if max(self.head_dim, widest) > MOST_HEAD_DIM:
            raise UsageError(
                f"head_dim is {max(self.head_dim, widest)}, more than any model's", fix="Correct it, or use a copy."
            )
        sizes = {"hidden_size": self.hidden_size, "vocab_size": self.vocab_size, "head_dim": self.head_dim or widest}
        _require_sizes(sizes)  # they become source code, in `definition`
        object.__setattr__(self, "head_dim", self.head_dim or widest)
        object.__setattr__(self, "rotary_dim", self.rotary_dim or self.head_dim)
        object.__setattr__(self, "query_pre_attn_scalar", self.query_pre_attn_scalar or float(self.head_dim))
        self._require_structure()
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise UsageError(
                f"RoPE rotates {self.rotary_dim} of {self.head_dim} dims of a head",
                fix="RoPE rotates pairs of dims: partial_rotary_factor must leave an even number.",
            )
        if widest > self.head_dim:
            raise UsageError(
                f"qk_head_dim {widest} is more than the model's head_dim {self.head_dim}",
                fix="RoPE has no frequencies beyond head_dim: use head_dim or less.",
            )
        if self.use_qk_norm and any(map(self.has_rope_pairs, self.layers)):
            raise UsageError(f"qk_head_dim is less than {self.head_dim}: {PAIRS_ARE_NORMED}", fix="Leave it as it is.")

    def _require_structure(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise UsageError(f"hidden_act is {self.hidden_act!r}", fix=f"It can be {' or '.join(ACTIVATIONS)}.")
        for name in ("embedding_multiplier", "query_pre_attn_scalar", "local_rope_theta"):
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value!r}", fix=f"Set {name} to a finite number of at least 0.")
        _require_sizes({"window_size": self.window_size}, least=1 if self.window_layers else 0)
        _require_sizes({f"window_layers[{i}]": layer for i, layer in enumerate(self.window_layers)}, least=0)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> WidthPlan:
        """The plan that a ``config.json`` describes, with or without a sparse ``per_layer_config``.

        A family's own fields are translated before, by `architecture.families.translated`.

        Raises:
            EdgeTransactError: A field is missing, is not a positive integer, or the widths contradict each other.
        """
        hidden_size, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
        head_dim = _size(config, "head_dim", default=hidden_size // heads)
        base = LayerWidths(
            num_attention_heads=heads,
            num_key_value_heads=_size(config, "num_key_value_heads", default=heads),
            qk_head_dim=_size(config, "qk_head_dim", default=head_dim),
            v_head_dim=_size(config, "v_head_dim", default=head_dim),
            intermediate_size=_size(config, "intermediate_size"),
        )
        num_hidden_layers = _size(config, "num_hidden_layers")
        if num_hidden_layers > MOST_LAYERS:
            raise EdgeTransactError(
                f"config.json: num_hidden_layers is {num_hidden_layers}, more than any model's",
                fix="Use the config.json that belongs to the weights.",
            )
        out_bias, rope = config.get("attention_out_bias"), config.get("rope_parameters") or config.get("rope_scaling")
        rope = rope if isinstance(rope, Mapping) else {}
        # Lists that have 1 for layers with RoPE, by transformers' name, and for those with a window.
        has_rope, has_window = config.get("no_rope_layers"), config.get("window_layers")
        overrides = _per_layer_widths(config, num_hidden_layers)
        return cls(
            hidden_size=hidden_size,
            vocab_size=_size(config, "vocab_size"),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            layers=tuple(replace(base, **overrides.get(index, {})) for index in range(num_hidden_layers)),
            head_dim=head_dim,
            attention_out_bias=None if out_bias is None else bool(out_bias),
            use_qk_norm=bool(config.get("use_qk_norm", False)),
            rotary_dim=int(min(head_dim, MOST_HEAD_DIM) * float(str(rope.get("partial_rotary_factor") or 1))),
            nope_layers=tuple(i for i, has in enumerate(has_rope) if not has) if isinstance(has_rope, list) else (),
            rope_type=str(rope.get("rope_type") or rope.get("type") or "default"),
            hidden_act=str(config.get("hidden_act") or "silu"),
            use_output_norms=bool(config.get("use_output_norms", False)),
            embedding_multiplier=float(str(config.get("embedding_multiplier") or 1)),
            query_pre_attn_scalar=float(str(config.get("query_pre_attn_scalar") or 0)),
            window_size=_size(config, "window_size", default=0),
            window_layers=tuple(i for i, has in enumerate(has_window) if has) if isinstance(has_window, list) else (),
            local_rope_theta=float(str(config.get("local_rope_theta") or 0)),
        )

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def q_per_kv(self) -> int:
        """Query heads per KV head, the same in every layer."""
        return next(layer.q_per_kv for layer in self.layers if layer.has_attention)

    def has_rope_pairs(self, layer: LayerWidths) -> bool:
        """Whether RoPE pairs were cut from a layer of this model; it then holds a table of the kept ones."""
        return 0 < layer.qk_head_dim < self.head_dim

    @property
    def has_own_head_dims(self) -> bool:
        """Whether dims were cut from any layer's heads; the KV cache then pads them."""
        dims = {size for layer in self.layers if layer.has_attention for size in (layer.qk_head_dim, layer.v_head_dim)}
        return dims != {self.head_dim}

    @property
    def rotates_in_model(self) -> bool:
        """Whether the model applies RoPE, and not the KV cache, which knows one rotation for all dims and layers."""
        return self.has_own_head_dims or not self._has_plain_rope

    @property
    def is_stock(self) -> bool:
        """Whether the family's own configuration can state all widths: layers are alike, heads have all their dims.

        Gemma's norms have other names and weights, which aren't written. transformers takes only numbers of query heads
        that divide the hidden size.
        """
        is_uniform = len(set(self.layers)) == 1 and self.layers[0].has_mlp and not self.has_own_head_dims
        return is_uniform and not self.use_output_norms and self.hidden_size % self.layers[0].num_attention_heads == 0

    @property
    def is_llama(self) -> bool:
        """Whether layers compute what LLaMA's do."""
        ours = (self.hidden_act, self.use_qk_norm, self.use_output_norms, self.embedding_multiplier, self.window_layers)
        has_scale = self.query_pre_attn_scalar == self.head_dim
        is_plain = self._has_plain_rope and has_scale and self.attention_out_bias == self.attention_bias
        return is_plain and ours == ("silu", False, False, 1, ())

    @property
    def _has_plain_rope(self) -> bool:
        is_whole = self.rotary_dim == self.head_dim and not self.nope_layers and not self.local_rope_theta
        return is_whole and self.rope_type in ("default", "llama3")

    @property
    def cache_head_dim(self) -> int:
        """The head dim of the KV cache, to which narrower heads are padded: the widest q, k or v head of any layer.

        It is rounded up to a multiple of `CACHE_HEAD_DIM_MULTIPLE`, but not beyond the original `head_dim`.
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
        """How many virtual KV layers each layer has.

        MLC's paged KV cache has one number of KV heads for all layers. Attention is independent across KV groups, so
        a layer of ``k * g`` KV heads is stored as ``k`` cache layers of ``g`` heads each. No head is padding, and a
        layer without attention has no cache layer.
        """
        return tuple(layer.num_key_value_heads // self.virtual_num_key_value_heads for layer in self.layers)

    @property
    def num_virtual_layers(self) -> int:
        """Layers of the KV cache, and attention launches per token."""
        return sum(self.virtual_layers)

    def with_layers(self, layers: Iterable[LayerWidths]) -> WidthPlan:
        """The same model with these layers."""
        return replace(self, layers=tuple(layers))

    def to_list(self) -> list[dict[str, int]]:
        """The widths as ``--json`` prints and ``--widths`` reads them: one object per layer."""
        return [asdict(layer) for layer in self.layers]

    @property
    def widest(self) -> LayerWidths:
        """The largest value of each width: the global widths of ``config.json``, an upper bound for every layer."""
        return LayerWidths(*(max(getattr(layer, name) for layer in self.layers) for name in WIDTH_FIELDS))

    def per_layer_config(self) -> dict[str, dict[str, int]]:
        """transformers' sparse map: for each layer, the widths that differ from those of `widest`.

        Without heads, their dims are left out.
        """
        base = asdict(self.widest)
        sparse = {
            str(index): {
                key: value
                for key, value in asdict(layer).items()
                if value != base[key] and (layer.has_attention or not key.endswith("head_dim"))
            }
            for index, layer in enumerate(self.layers)
        }
        return {index: layer for index, layer in sparse.items() if layer}


def _require_sizes(sizes: Mapping[str, object], least: int = 1) -> None:
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name} is {value!r}", fix=f"Set {name} to an integer of at least {least}.")


def _size(config: Mapping[str, object], name: str, default: int | None = None) -> int:
    """A positive integer of ``config.json``; `default` where the file leaves it out, or has null or 0."""
    if default is not None and config.get(name) in (None, 0):
        return default
    if name not in config:
        raise EdgeTransactError(f"config.json has no {name!r}", fix="Use a LLaMA checkpoint's config.json.")
    value = config[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise EdgeTransactError(
            f"config.json: {name} is {value!r}, not an integer of at least 1",
            fix="Use the config.json that belongs to the weights.",
        )
    return value


def _per_layer_widths(config: Mapping[str, object], num_hidden_layers: int) -> dict[int, dict[str, int]]:
    """The widths in ``per_layer_config``, by layer; other fields are left out."""
    overrides, fix = config.get("per_layer_config") or {}, "Use the config.json that belongs to the weights."
    if not isinstance(overrides, Mapping) or not all(isinstance(layer, Mapping) for layer in overrides.values()):
        raise EdgeTransactError("config.json: per_layer_config is not a map from layers to widths", fix=fix)
    for index in overrides:
        if not str(index).isdecimal() or len(str(index)) > 9 or int(index) >= num_hidden_layers:
            raise EdgeTransactError(
                f"config.json: per_layer_config has a layer {index!r}, the model has {num_hidden_layers} layers",
                fix=fix,
            )
    return {
        int(index): {name: layer[name] for name in WIDTH_FIELDS if name in layer} for index, layer in overrides.items()
    }


def read_widths(path: Path, source: WidthPlan) -> WidthPlan:
    """The plan in a ``--widths`` file, a JSON list of one object per layer; missing fields keep the source's width.

    A `UsageError` names the layer and the field that is unknown or wider than the source's, or other JSON.
    """
    try:
        rows = read_json(path, "Give --widths a JSON list of objects, one per layer.")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", fix="Give --widths a JSON file: one object per layer.") from error
    except EdgeTransactError as error:
        raise UsageError(error.message, fix=error.fix) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"{path} is not a JSON list of objects", fix="Write one object per layer, as `inspect --json` prints."
        )
    if len(rows) != source.num_hidden_layers:
        raise UsageError(
            f"{path} has {len(rows)} layers, the model has {source.num_hidden_layers}",
            fix="Write one object per layer; an empty one keeps the layer's widths.",
        )
    return source.with_layers(
        _narrowed(layer, row, f"{path}, layer {index}")
        for index, (layer, row) in enumerate(zip(source.layers, rows, strict=True))
    )


def _narrowed(layer: LayerWidths, row: Mapping[str, Any], where: str) -> LayerWidths:
    unknown = sorted(set(row) - set(WIDTH_FIELDS))
    if unknown:
        raise UsageError(f"{where}: unknown {unknown[0]!r}", fix=f"The fields are {', '.join(WIDTH_FIELDS)}.")
    # KV heads alone imply the query heads that share them, and query heads alone their KV heads.
    values = dict(row)
    heads, groups = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if isinstance(groups, int) and heads is None:
        values["num_attention_heads"] = groups * layer.q_per_kv
    if isinstance(heads, int) and groups is None and layer.has_attention:
        if heads % layer.q_per_kv:
            raise UsageError(
                f"{where}: num_attention_heads {heads} is not a multiple of {layer.q_per_kv} (query heads per KV head)",
                fix="Heads are cut by KV groups: use a multiple.",
            )
        values["num_key_value_heads"] = heads // layer.q_per_kv
    for name, value in values.items():
        if isinstance(value, int) and value > getattr(layer, name):
            raise UsageError(
                f"{where}: {name} {value} is more than the model's {getattr(layer, name)}",
                fix="Pruning only narrows: use the model's width or less.",
            )
    try:
        return replace(layer, **values)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", fix=error.fix) from error


def describe(plan: WidthPlan) -> Sequence[str]:
    """One line per width, ``name: value`` or ``name: least..most``, of the layers that have it; and the others."""
    lines = []
    for name in WIDTH_FIELDS:
        values = [value for layer in plan.layers if (value := getattr(layer, name))]
        low, high = min(values), max(values)
        lines.append(f"{name}: {low}" if low == high else f"{name}: {low}..{high}")
    for module, has in (("attention", "has_attention"), ("MLP", "has_mlp")):
        if gone := [str(index) for index, layer in enumerate(plan.layers) if not getattr(layer, has)]:
            lines.append(f"layers without {module}: {', '.join(gone)}")
    return lines
