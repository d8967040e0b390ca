"""Replaces the definition's functions for heads that lost dims by kernels that layers of all widths share."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from edge_transact.compiler.cpu import heads as cpu_heads
from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.gpu import heads as gpu_heads
from edge_transact.compiler.gpu.kernels import OpenCLKernels
from edge_transact.compiler.gpu.source import LANES
from edge_transact.compiler.matmul import CacheHeads, Matmul
from edge_transact.compiler.passes.calls import is_call_of, relax_functions
from edge_transact.compiler.passes.fuse_matmuls import PREFIXES, Kernels

FUNCTIONS = re.compile(r"(rope|without_padding)\d*")
"""Names of the definition's functions, which TVM numbers."""

WITHOUT_PADDING = "heads_without_padding"
"""The name of the kernel that replaces ``without_padding``."""


def share_heads(
    mod: IRModule, metadata: Mapping[str, Any], kernels: Kernels, matmuls: Mapping[str, Matmul]
) -> IRModule:
    """Compute ``rope`` in the matmul before it, and ``without_padding`` in the matmul after it.

    Where there is no such matmul of ours, they become kernels of their own. `matmuls` are what replaceable kernels
    compute, by name, with OpenCL only.
    """
    kv_cache = metadata["kv_cache"]
    cache_heads = CacheHeads(*(kv_cache[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim")))
    sharer = _Sharer(mod, cache_heads, kernels, matmuls)
    for var, function in relax_functions(mod):
        sharer.builder_.update_func(var, sharer.visit_expr(function))
    return relax.transform.DeadCodeElimination()(sharer.builder_.get())


@relax.expr_functor.mutator
class _Sharer(relax.PyExprMutator):
    def __init__(self, mod: IRModule, cache_heads: CacheHeads, kernels: Kernels, matmuls: Mapping[str, Matmul]) -> None:
        super().__init__(mod)
        self.heads, self.kernels, self.matmuls = cache_heads, kernels, matmuls
        self.head_kernels = cpu_heads if isinstance(kernels, CPUKernels) else gpu_heads
        self.made: dict[Hashable, relax.GlobalVar] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        name = _called(call)
        if name is None:
            return call
        if name in self.matmuls:
            return self._of_padded(call, self.matmuls[name])
        named = FUNCTIONS.fullmatch(name)
        if named is None:
            return call
        return self._rope(call) if named[1] == "rope" else self._without_padding(call)

    def _producer(self, var: relax.Expr) -> relax.Call | None:
        value = self.lookup_binding(var) if isinstance(var, relax.Var) else None
        return value if _called(value) is not None else None

    def _kernel(self, key: Hashable, make: Callable[[], tirx.PrimFunc], name: str) -> relax.GlobalVar:
        if key not in self.made:
            self.made[key] = self.builder_.add_func(make(), name)
        return self.made[key]

    def _of_padded(self, call: relax.Call, matmul: Matmul) -> relax.Expr:
        """A matmul that takes padding out itself, where `call` multiplies what ``without_padding`` returns."""
        x, *others = call.args[1].fields
        producer = self._producer(x)
        if producer is None or _called(producer) != WITHOUT_PADDING:
            return call
        if self.heads.head_dim % LANES:  # where a head begins, vectors of so many values aren't aligned
            return call
        padded, v_head_dim = producer.args[1].fields
        kernel = self._matmul(replace(matmul, padded=True), x, call, int(v_head_dim.value))
        return relax.call_tir(kernel, [padded, *others, v_head_dim], call.ty)

    def _matmul(self, matmul: Matmul, x: relax.Expr, call: relax.Call, *head_dims: int) -> relax.GlobalVar:
        """The kernel for a matmul of `x`, which has no padding, that replaces `call`."""
        assert isinstance(self.kernels, OpenCLKernels), "there are matmuls to replace"
        rows = list(x.ty.shape)
        key, make = self.kernels.select(matmul, rows, int(call.ty.shape[-1]), head_dims)
        return self._kernel(key, make, f"{PREFIXES[self.kernels.rows(rows)]}_{matmul.label}")

    def _rope(self, call: relax.Call) -> relax.Expr:
        qkv, rotation, *pairs = call.args[1].fields
        outputs = list(call.ty.fields) if isinstance(call.ty, tvm.ir.TupleType) else [call.ty]
        qk = 2 * int(pairs[0].ty.shape[1] if pairs else rotation.ty.shape[2])
        h_q, h_kv = self.heads.num_attention_heads, self.heads.num_key_value_heads
        d_v = (int(qkv.ty.shape[2]) // len(outputs) - (h_q + h_kv) * qk) // h_kv
        producer = self._producer(qkv)
        matmul = self.matmuls.get(_called(producer) or "")
        if matmul is not None and producer is not None:
            x, *others = producer.args[1].fields
            kernel = self._matmul(replace(matmul, heads=self.heads), x, producer, qk, d_v)
            kept = (
                pairs[0] if pairs else relax.const(np.tile(np.arange(qk // 2, dtype="int32"), (h_kv * len(outputs), 1)))
            )
            arguments = [x, *others, rotation, kept]
        else:
            dtype, name = str(qkv.ty.dtype), "rope_of_pairs" if pairs else "rope_of_all"
            kernel = self._kernel(name, lambda: self.head_kernels.rope(self.heads, dtype, pairs=bool(pairs)), name)
            arguments = [qkv, rotation, *pairs]
        parts = [
            self._part(kernel, [*arguments, *_integers(qk, d_v, layer)], output, in_tokens=matmul is None)
            for layer, output in enumerate(outputs)
        ]
        if not isinstance(call.ty, tvm.ir.TupleType):
            return parts[0]
        return relax.Tuple([self.builder_.emit(part) for part in parts])

    def _part(
        self, kernel: relax.GlobalVar, arguments: list[relax.Expr], output: relax.TensorType, *, in_tokens: bool
    ) -> relax.Expr:
        """The heads of a virtual layer. Separate kernels return them by token, the KV cache's layout."""
        if not in_tokens:
            return relax.call_tir(kernel, arguments, output)
        b, s, *head_dims = output.shape
        tokens = relax.TensorType([b * s, *head_dims], output.dtype)
        return relax.op.reshape(self.builder_.emit(relax.call_tir(kernel, arguments, tokens)), output.shape)

    def _without_padding(self, call: relax.Call) -> relax.Expr:
        (x,) = call.args[1].fields
        v_head_dim = int(call.ty.shape[2]) // int(x.ty.shape[2])
        if v_head_dim == self.heads.head_dim:
            return relax.op.reshape(x, call.ty.shape)
        kernel = self._kernel(
            WITHOUT_PADDING, lambda: self.head_kernels.without_padding(str(x.ty.dtype)), WITHOUT_PADDING
        )
        return relax.call_tir(kernel, [x, *_integers(v_head_dim)], call.ty)


def _called(call: relax.Expr | None) -> str | None:
    """The name of the kernel that `call_tir` calls; `None` for other expressions."""
    return call.args[0].name_hint if call is not None and is_call_of(call, "relax.call_tir") else None


def _integers(*values: int) -> list[relax.Expr]:
    return [relax.prim_value(value) for value in values]
