"""Replaces the definition's functions for heads that lost dims by kernels that layers of all widths share."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from edge_transact.compiler.matmul import CacheHeads, Matmul, Rows
from edge_transact.compiler.passes.fuse_matmuls import PREFIXES
from edge_transact.quantization import VALUES_PER_WORD

FUNCTIONS = re.compile(r"(rope|without_padding)\d*")
"""Names of the definition's functions, which TVM numbers."""

WITHOUT_PADDING = "heads_without_padding"
"""The name of the kernel that replaces ``without_padding``."""


class HeadKernels(Protocol):
    """Kernels for heads that lost dims, of one kind of device."""

    def rope(self, cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> tirx.PrimFunc:
        """As `gpu.heads.rope`."""

    def without_padding(self, dtype: str) -> tirx.PrimFunc:
        """As `gpu.heads.without_padding`."""


class HeadMatmuls(Protocol):
    """The matmul kernels of a GPU, which also rotate and pad heads, and read padded ones."""

    def rows(self, x: Sequence[tirx.Expr]) -> Rows:
        """As `gpu.kernels.OpenCLKernels.rows`."""

    def select(
        self, matmul: Matmul, x: Sequence[tirx.Expr], width: int, head_dims: Sequence[int] = ()
    ) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """As `gpu.kernels.OpenCLKernels.select`."""


@tvm.transform.module_pass(opt_level=0, name="ShareHeads")
class ShareHeads:
    """On GPUs, ``rope`` becomes part of the matmul before it, and ``without_padding`` part of the matmul after it.

    Matmuls that aren't ours, of weights in 16 bits for one, stay as they are, and so do a CPU's. Next to them stand
    kernels that do nothing else, one launch for each virtual KV layer.

    Args:
        metadata: Returned by ``_metadata``; its ``kv_cache`` has the heads of a virtual KV layer.
        head_kernels: The device's kernels that stand alone.
        kernels: Its matmul kernels, if they can do both.
        matmuls: What the module's matmuls compute that those kernels can replace, by name.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        head_kernels: HeadKernels,
        kernels: HeadMatmuls | None = None,
        matmuls: Mapping[str, Matmul] | None = None,
    ) -> None:
        self.metadata, self.head_kernels, self.kernels = metadata, head_kernels, kernels
        self.matmuls = {} if matmuls is None else matmuls

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        kv_cache = self.metadata["kv_cache"]
        cache_heads = CacheHeads(*(kv_cache[n] for n in ("num_attention_heads", "num_key_value_heads", "head_dim")))
        sharer = _Sharer(mod, cache_heads, self.head_kernels, self.kernels, self.matmuls)
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                sharer.builder_.update_func(var, sharer.visit_expr(function))
        return relax.transform.DeadCodeElimination()(sharer.builder_.get())


@relax.expr_functor.mutator
class _Sharer(relax.PyExprMutator):
    def __init__(
        self,
        mod: IRModule,
        cache_heads: CacheHeads,
        head_kernels: HeadKernels,
        kernels: HeadMatmuls | None,
        matmuls: Mapping[str, Matmul],
    ) -> None:
        super().__init__(mod)
        self.heads, self.head_kernels, self.kernels, self.matmuls = cache_heads, head_kernels, kernels, matmuls
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
        """The call of a kernel whose result a variable is."""
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
        if self.heads.head_dim % VALUES_PER_WORD:  # where a head begins, vectors of so many values aren't aligned
            return call
        padded, v_head_dim = producer.args[1].fields
        kernel = self._matmul(replace(matmul, padded=True), x, call, int(v_head_dim.value))
        return relax.call_tir(kernel, [padded, *others, v_head_dim], call.ty)

    def _matmul(self, matmul: Matmul, x: relax.Expr, call: relax.Call, *head_dims: int) -> relax.GlobalVar:
        """The kernel for a matmul of `x`, which has no padding, that replaces `call`."""
        assert self.kernels is not None, "there are matmuls to replace"
        rows = list(x.ty.shape)
        selected = self.kernels.select(matmul, rows, int(call.ty.shape[-1]), head_dims)
        assert selected is not None, "there is a kernel without padding"
        return self._kernel(*selected, f"{PREFIXES[self.kernels.rows(rows)]}_{matmul.label}")

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
        """The heads of a virtual layer. Kernels that stand alone return those of tokens, as the KV cache takes them."""
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
    if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir":
        return call.args[0].name_hint
    return None


def _integers(*values: int) -> list[relax.Expr]:
    return [relax.prim_value(value) for value in values]
