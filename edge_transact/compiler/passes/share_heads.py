"""Replaces the definition's functions for heads that lost dims by kernels that layers of all widths share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.gpu import heads

FUNCTIONS = re.compile(r"(rope|without_padding)\d*")
"""Names of the definition's functions, which TVM numbers."""


@tvm.transform.module_pass(opt_level=0, name="ShareHeads")
class ShareHeads:
    """Calls of ``rope`` and ``without_padding`` become calls of `gpu.heads`, one for each virtual KV layer.

    Args:
        metadata: Returned by ``_metadata``; its ``kv_cache`` has the heads of a virtual KV layer.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        sharer = _Sharer(mod, self.metadata["kv_cache"])
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                sharer.builder_.update_func(var, sharer.visit_expr(function))
        return relax.transform.DeadCodeElimination()(sharer.builder_.get())


@relax.expr_functor.mutator
class _Sharer(relax.PyExprMutator):
    def __init__(self, mod: IRModule, kv_cache: Mapping[str, int]) -> None:
        super().__init__(mod)
        self.h_q, self.h_kv = kv_cache["num_attention_heads"], kv_cache["num_key_value_heads"]
        self.made: dict[str, relax.GlobalVar] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not (isinstance(call.op, tvm.ir.Op) and call.op.name == "relax.call_tir"):
            return call
        named = FUNCTIONS.fullmatch(call.args[0].name_hint)
        if named is None:
            return call
        return self._rope(call) if named[1] == "rope" else self._without_padding(call)

    def _rope(self, call: relax.Call) -> relax.Expr:
        arguments = list(call.args[1].fields)
        outputs = list(call.ty.fields) if isinstance(call.ty, tvm.ir.TupleType) else [call.ty]
        qkv, rotation = arguments[0].ty, arguments[1].ty
        qk = 2 * int(arguments[2].ty.shape[1] if len(arguments) > 2 else rotation.shape[2])
        d_v = (int(qkv.shape[2]) // len(outputs) - (self.h_q + self.h_kv) * qk) // self.h_kv
        name = "rope_of_pairs" if len(arguments) > 2 else "rope_of_all"
        if name not in self.made:
            dtype, head_dim = str(qkv.dtype), int(outputs[0].shape[3])
            kernel = heads.rope(self.h_q, self.h_kv, head_dim, dtype, pairs=len(arguments) > 2)
            self.made[name] = self.builder_.add_func(kernel, name)
        parts = [
            self.builder_.emit(relax.call_tir(self.made[name], [*arguments, *_integers(qk, d_v, layer)], output))
            for layer, output in enumerate(outputs)
        ]
        return relax.Tuple(parts) if isinstance(call.ty, tvm.ir.TupleType) else parts[0]

    def _without_padding(self, call: relax.Call) -> relax.Expr:
        (x,) = call.args[1].fields
        name = "heads_without_padding"
        if name not in self.made:
            self.made[name] = self.builder_.add_func(heads.without_padding(str(x.ty.dtype)), name)
        d_v = int(call.ty.shape[2]) // int(x.ty.shape[2])
        return relax.call_tir(self.made[name], [x, *_integers(d_v)], call.ty)


def _integers(*values: int) -> list[relax.Expr]:
    return [relax.prim_value(value) for value in values]
