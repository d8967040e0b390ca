"""Joins reshapes of reshapes: the definition reshapes heads, and TVM's KV cache reshapes them again."""

from __future__ import annotations

import tvm_ffi
from tvm import IRModule, relax

from edge_transact.compiler.passes.calls import is_call_of, relax_functions


def join_reshapes(mod: IRModule) -> IRModule:
    """Make one reshape of a reshape's reshape, and none of one that keeps the shape.

    TVM turns a single reshape into a view, but fuses two into a kernel that copies.
    """
    for var, function in relax_functions(mod):
        mod[var] = _Joiner(mod).visit_expr(function)
    return relax.transform.DeadCodeElimination()(mod)


@relax.expr_functor.mutator
class _Joiner(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not is_call_of(call, "relax.reshape"):
            return call
        inner = self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
        source = inner.args[0] if is_call_of(inner, "relax.reshape") else call.args[0]
        if tvm_ffi.structural_equal(source.ty.shape, call.args[1]):
            return source
        return relax.op.reshape(source, call.args[1])
