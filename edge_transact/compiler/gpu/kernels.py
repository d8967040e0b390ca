"""Selects the GPU kernel of a matmul, and makes that of the embedding."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.gpu.decode import decode
from edge_transact.compiler.gpu.prefill import prefill
from edge_transact.compiler.gpu.source import LANES, blocks
from edge_transact.compiler.lowering import SCHEDULED
from edge_transact.compiler.matmul import Matmul, Rows, rows_of
from edge_transact.compiler.vector import cast, kernel_body, tensor
from edge_transact.quantization import Quantization

THREADS = 64


def embed(quantization: Quantization) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``; a thread a value."""
    size, dtype, per_word = quantization.group_size, quantization.model_dtype, quantization.values_per_word
    with kernel_body(SCHEDULED) as ib:
        n, rows, features = T.int64(), T.int64(), T.int64()
        groups = (features + (size - 1)) // size
        ids = tensor("ids", (n,), "int32")
        weight = tensor("weight", (rows, groups * quantization.words_per_group), "uint32")
        scale = tensor("scale", (rows, groups), dtype)
        out = tensor("out", (n, features), dtype)
        width = T.bind(cast("int32", features))
        with (
            T.thread_binding(cast("int32", n), thread="blockIdx.y") as i,
            T.thread_binding(blocks(width, THREADS), thread="blockIdx.x") as block,
            T.thread_binding(THREADS, thread="threadIdx.x") as thread,
        ):
            k = T.bind(block * THREADS + thread)
            with T.If(k < width), T.Then():
                # A vocabulary times its features may exceed 32 bits.
                row = T.bind(cast("int64", ids[i]))
                word = weight[row, k // per_word]
                nibble = T.bitwise_and(T.shift_right(word, cast("uint32", k % per_word * 4)), T.uint32(15))
                signed = cast("float32", cast("int32", nibble) - quantization.zero_point)
                value = signed * cast("float32", scale[row, k // size])
                T.buffer_store(out, cast(dtype, value), [i, k])
    return ib.get()


NORM_BYTES = 16384
"""The largest row that a work group normalizes in local memory, half of a phone's."""


class _GPUKernels:
    embed = staticmethod(embed)  # TVM's own kernels dequantize the whole matrix first

    def rows(self, x: Sequence[tirx.Expr]) -> Rows:
        """The kind of rows that select a kernel: one, or any number, which a batch is, too."""
        return "one" if rows_of(x) == "one" else "any"


class MetalKernels(_GPUKernels):
    """The kernels for Metal, for `passes.fuse_matmuls`: all matmuls are TVM's."""

    def takes_norm(self, x: Sequence[tirx.Expr], dtype: str) -> bool:
        """Whether the kernel applies the RMSNorm before its matmul: none does."""
        return False

    def select(self, matmul: Matmul, x: Sequence[tirx.Expr], width: int, head_dims: Sequence[int] = ()) -> None:
        """There is none."""


class OpenCLKernels(_GPUKernels):
    """The kernels for OpenCL, for `passes.fuse_matmuls`: a handful, because widths are arguments."""

    def takes_norm(self, x: Sequence[tirx.Expr], dtype: str) -> bool:
        """Whether the kernel for activations of this shape applies RMSNorm: for one row that local memory holds."""
        features = int(x[-1])
        return rows_of(x) == "one" and features % LANES == 0 and features * np.dtype(dtype).itemsize <= NORM_BYTES

    def select(
        self, matmul: Matmul, x: Sequence[tirx.Expr], width: int, head_dims: Sequence[int] = ()
    ) -> tuple[Hashable, Callable[[], tirx.PrimFunc]]:
        """A key that matmuls of the same kernel share, and a function that makes the kernel.

        Sizes are without padding. `head_dims` is ``v_head_dim`` if activations are padded heads; ``qk_head_dim`` and
        ``v_head_dim`` if results are.
        """
        features = int(x[-1])
        if rows_of(x) != "one" or any(n % LANES for n in (features, *(head_dims if matmul.padded else ()))):
            return (matmul, "prefill"), lambda: prefill(matmul)
        # A thread computes two columns if all are in pairs: with heads, if the halves of all heads are even.
        pairs = [n // 2 for n in head_dims] if matmul.heads else [width]
        columns = 1 if matmul.layout == "KN" and any(n % 2 for n in [*pairs, *head_dims]) else 2
        if matmul.norm_eps is not None:
            return (matmul, columns, features), lambda: decode(matmul, columns, features=features)
        ragged = matmul.padded or features % matmul.quantization.group_size != 0
        return (matmul, columns, ragged), lambda: decode(matmul, columns, ragged=ragged)
