"""The matrices and norms of a decoder layer: transformers' names, and which widths are their rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_transact.widths import LayerWidths, WidthPlan


@dataclass(frozen=True)
class Matrix:
    """A linear layer, ``[output features, input features]``.

    Attributes:
        rows: The sizes whose product is its output features, the outermost first: fields of `LayerWidths` or of
            `WidthPlan`. A row of q, for example, is ``(group * q_per_kv + query) * qk_head_dim + dim``.
        columns: The same of its input features.
        bias: The field of `WidthPlan` that tells whether it has a bias.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    bias: str

    def shape(self, plan: WidthPlan, layer: LayerWidths) -> tuple[int, int]:
        """Output and input features in a layer of a model."""
        return _product(self.rows, plan, layer), _product(self.columns, plan, layer)

    def has_bias(self, plan: WidthPlan) -> bool:
        return bool(getattr(plan, self.bias))


def _product(sizes: tuple[str, ...], plan: WidthPlan, layer: LayerWidths) -> int:
    return math.prod(getattr(plan if size == "hidden_size" else layer, size) for size in sizes)


_HIDDEN = ("hidden_size",)

QUERY = Matrix("self_attn.q_proj", ("num_key_value_heads", "q_per_kv", "qk_head_dim"), _HIDDEN, "attention_bias")
KEY = Matrix("self_attn.k_proj", ("num_key_value_heads", "qk_head_dim"), _HIDDEN, "attention_bias")
VALUE = Matrix("self_attn.v_proj", ("num_key_value_heads", "v_head_dim"), _HIDDEN, "attention_bias")
OUTPUT = Matrix("self_attn.o_proj", _HIDDEN, ("num_key_value_heads", "q_per_kv", "v_head_dim"), "attention_out_bias")
GATE = Matrix("mlp.gate_proj", ("intermediate_size",), _HIDDEN, "mlp_bias")
UP = Matrix("mlp.up_proj", ("intermediate_size",), _HIDDEN, "mlp_bias")
DOWN = Matrix("mlp.down_proj", _HIDDEN, ("intermediate_size",), "mlp_bias")

ATTENTION_INPUTS, MLP_INPUTS = (QUERY, KEY, VALUE), (GATE, UP)
"""The matrices that read the normed hidden state."""

ATTENTION, MLP = (*ATTENTION_INPUTS, OUTPUT), (*MLP_INPUTS, DOWN)
MATRICES: Mapping[str, Matrix] = {matrix.name: matrix for matrix in (*ATTENTION, *MLP)}
"""By name, in the order of the forward pass."""

ATTENTION_NORM, MLP_NORM = "input_layernorm", "post_attention_layernorm"
"""RMSNorms of the hidden state, before attention and before the MLP."""

OUTPUT_NORMS: Mapping[str, str] = {OUTPUT.name: "post_self_attn_layernorm", DOWN.name: "post_mlp_layernorm"}
"""RMSNorms of what is added to the hidden state, by the matrix that makes it, with `WidthPlan.use_output_norms`."""

HIDDEN_NORMS = (ATTENTION_NORM, OUTPUT_NORMS[OUTPUT.name], MLP_NORM, OUTPUT_NORMS[DOWN.name])
"""All norms ``[hidden_size]`` that a layer may have, in the order of the forward pass."""

HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
"""RMSNorms of every query and key head before RoPE, ``[head_dim]``, in models with `WidthPlan.use_qk_norm`."""


def matrices_of(plan: WidthPlan, layer: LayerWidths, among: Iterable[Matrix] = MATRICES.values()) -> list[Matrix]:
    """Those of these matrices that a layer has: without attention or MLP, it has none of them."""
    return [matrix for matrix in among if all(matrix.shape(plan, layer))]


def norms_of(plan: WidthPlan, layer: LayerWidths) -> dict[str, int]:
    """The norms that a layer has, and their sizes: before its attention, of its heads, before its MLP, of outputs."""
    of_heads = dict.fromkeys(HEAD_NORMS * plan.use_qk_norm, layer.qk_head_dim)
    found: dict[str, int] = {}
    for has, before, of_inputs, after in (
        (layer.has_attention, ATTENTION_NORM, of_heads, OUTPUT_NORMS[OUTPUT.name]),
        (layer.has_mlp, MLP_NORM, {}, OUTPUT_NORMS[DOWN.name]),
    ):
        if has:
            found |= {
                before: plan.hidden_size,
                **of_inputs,
                **({after: plan.hidden_size} if plan.use_output_norms else {}),
            }
    return found
