"""The matmuls of a model: the storage of their weights, and the specification of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tvm import s_tir, tirx

from edge_transact.quantization import Quantization, get_quantization

Layout = Literal["NK", "KN"]
"""Which of a weight's dimensions comes first: output features (N) or input features (K)."""

MATMUL, EMBEDDING = "edge_transact.matmul", "edge_transact.embedding"
"""Annotations of the blocks that `modules` makes: the weight's ``layout`` and the name of its ``quantization``.

They are on blocks because ``FuseTIR`` drops the attributes of functions.
"""

KERNEL_GRID = 4, 32, 7
"""`Quantization.grid` of the weights that kernels unpack; other matmuls stay TVM's."""


@dataclass(frozen=True)
class StoredWeight:
    """The weight that a block reads: for `MATMUL` or `EMBEDDING`, its layout and quantization."""

    op: str
    layout: Layout
    quantization: Quantization


def weight_block(schedule: s_tir.Schedule) -> tuple[s_tir.schedule.SBlockRV, StoredWeight] | None:
    """The block of a function that reads a weight, by its annotation; `None` where there is none."""
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        annotations = schedule.get(block).annotations
        for op in (MATMUL, EMBEDDING):
            if op in annotations:
                layout: Layout = "KN" if annotations[op]["layout"] == "KN" else "NK"
                return block, StoredWeight(op, layout, get_quantization(annotations[op]["quantization"]))
    return None


@dataclass(frozen=True)
class CacheHeads:
    """The heads of a virtual layer of the KV cache, padded with zeros to `head_dim` where they lost dims."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


@dataclass(frozen=True)
class Matmul:
    """A kernel's computation: ``y = x W`` with a packed W of any width, and the operations fused into it.

    Attributes:
        layout: With ``G = ceil(K / 32)`` groups, ``NK`` (weight ``[N, 4 G]``, scale ``[N, G]``) or ``KN``, transposed.
        quantization: How W is packed; scales have its model dtype.
        norm_eps: Apply RMSNorm to `x` first, with this epsilon and a weight ``[K]``.
        bias: Add a bias ``[N]``.
        gated: The first half of the columns is a gate: ``activation(y[:, :N/2]) * y[:, N/2:]``.
        activation: Of the gate, one of `widths.ACTIVATIONS`.
        residual: Add a tensor of the result's shape.
        padded: `x` is ``[batch, tokens, heads, head_dim]``; of each head the first dims are features. On GPUs only.
        heads: The result is q, k and v of a virtual KV layer, rotated and padded. On GPUs only.
    """

    layout: Layout
    dtype: str
    quantization: Quantization
    out_dtype: str
    norm_eps: float | None = None
    bias: bool = False
    gated: bool = False
    activation: str = "silu"
    residual: bool = False
    padded: bool = False
    heads: CacheHeads | None = None

    @property
    def label(self) -> str:
        """The part of kernels' names that describes the computation: ``kn_norm_gated``."""
        parts = {
            "norm": self.norm_eps is not None,
            "bias": self.bias,
            "gated": self.gated,
            self.activation: self.activation != "silu",
            "residual": self.residual,
            "padded": self.padded,
            "heads": self.heads is not None,
            self.out_dtype: self.out_dtype != self.dtype,
        }
        return "_".join([self.layout.lower(), *(part for part, present in parts.items() if present)])

    @property
    def operands(self) -> tuple[str, ...]:
        """The kernel's arguments before its result, in order."""
        norm = ["norm"] if self.norm_eps is not None else []
        bias, residual = ["bias"] * self.bias, ["residual"] * self.residual
        return ("x", "weight", "scale", *norm, *bias, *residual)

    def tensors(
        self, leading: Sequence[tirx.Expr | int], k: tirx.Expr, n: tirx.Expr, width: tirx.Expr
    ) -> dict[str, tuple[tuple[tirx.Expr | int, ...], str]]:
        """Shape and dtype of each operand and of ``out``, in the order of the kernel's arguments.

        `leading` is batch and tokens, and `width` the columns of the result: n, or n / 2 with a gate.
        """
        groups = (k + (self.quantization.group_size - 1)) // self.quantization.group_size
        packed, scales = (n, groups * self.quantization.words_per_group), (n, groups)
        if self.layout == "KN":
            packed, scales = packed[::-1], scales[::-1]
        tensors = {
            "x": ((*leading, k), self.dtype),
            "weight": (packed, "uint32"),
            "scale": (scales, self.quantization.model_dtype),
            "norm": ((k,), self.dtype),
            "bias": ((n,), self.dtype),
            "residual": ((*leading, width), self.dtype),
            "out": ((*leading, width), self.out_dtype),
        }
        return {name: tensors[name] for name in (*self.operands, "out")}

    @property
    def sections(self) -> int:
        """Columns of the weight for a column of the result, or for a pair of dims of `heads`."""
        return 2 if self.gated or self.heads else 1

    @property
    def group_bytes(self) -> int:
        """Bytes of a group of packed weights and its scale."""
        return 4 * self.quantization.words_per_group + self.quantization.model_dtype_bytes


@dataclass(frozen=True)
class ChainedMatmul:
    """One of several matmuls of a kernel; `given` are names of operands, and places of the matmuls that make them."""

    matmul: Matmul
    given: tuple[tuple[str, int], ...] = ()
    returned: bool = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """The operands that are arguments of the kernel."""
        return tuple(name for name in self.matmul.operands if name not in dict(self.given))


Rows = Literal["one", "batch", "any"]
"""A kernel's rows of activations: one token, one of each of several sequences, or any tokens."""

BATCH_SIZE = "batch_size"
"""The variable for the number of sequences, in the functions of MLC's engine ABI."""


def rows_of(x: Sequence[tirx.Expr]) -> Rows:
    """The rows of activations ``[batch, tokens, K]`` of this shape."""
    batch, tokens, _ = x
    if not (isinstance(batch, tirx.IntImm) and int(batch) == 1):
        return "any"
    if isinstance(tokens, tirx.IntImm):
        return "one" if int(tokens) == 1 else "any"
    return "batch" if isinstance(tokens, tirx.Var) and tokens.name == BATCH_SIZE else "any"
