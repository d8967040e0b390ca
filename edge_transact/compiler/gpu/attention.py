"""The KV cache's kernels on GPUs: TVM's, without what our models never need, and with its races mended."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.gpu.source import wait
from edge_transact.compiler.vector import cast


def rotated_before(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """An attention kernel of TVM without its branch that rotates q and k itself, most of its code.

    Our models' caches rotate what is appended, or the definition does, and so pass ``rotary_mode`` 0 always.
    """
    (mode,) = (parameter for parameter in function.params if parameter.name == "rotary_mode")
    return function.with_body(tirx.stmt_functor.substitute(function.body, {mode: T.int32(0)}))


def merge(num_attention_heads: int, head_dim: int, dtype: str, max_threads: int) -> tirx.PrimFunc:
    """Attention to two parts of a sequence becomes that to both, in place of the first.

    Arguments: output and log-sum-exp (base 2) of the first, ``[n, heads, dim]`` and ``[n, heads]``, then those of the
    second. In TVM's ``_merge_state_inplace``, a thread may overwrite a log-sum-exp before another one reads it.
    """
    together = math.gcd(num_attention_heads, max(1, max_threads // head_dim))
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        n = T.int32()
        heads, dims = T.int32(), T.int32()

        def argument(name: str, shape: tuple[tirx.Expr, ...], kind: str) -> tirx.Buffer:
            return T.match_buffer(T.arg(name, T.handle()), shape, kind)

        output, weight = argument("output", (n, heads, dims), dtype), argument("lse", (n, heads), "float32")
        other = argument("other", (n, heads, dims), dtype)
        other_weight = argument("other_lse", (n, heads), "float32")
        with (
            T.thread_binding(n, thread="blockIdx.x") as i,
            T.thread_binding(heads // together, thread="blockIdx.y") as block,
            T.thread_binding(together, thread="threadIdx.y") as y,
            T.thread_binding(head_dim, thread="threadIdx.x") as dim,
        ):
            head = T.bind(block * together + y)
            a, b = T.bind(weight[i, head]), T.bind(other_weight[i, head])
            most = T.bind(T.max(a, b))
            first, second = T.bind(T.exp2(a - most)), T.bind(T.exp2(b - most))
            total = T.bind(first + second)
            wait()
            mean = cast("float32", output[i, head, dim]) * first + cast("float32", other[i, head, dim]) * second
            T.buffer_store(output, cast(dtype, mean / total), [i, head, dim])
            with T.If(dim == 0), T.Then():
                T.buffer_store(weight, T.log2(total) + most, [i, head])
    return ib.get()
