"""Joins reshapes of reshapes: the definition reshapes heads, and TVM's KV cache reshapes them again."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import IRModule, relax


@tvm.transform.module_pass(opt_level=0, name="JoinReshapes")
class JoinReshapes:
    """A reshape of a reshape becomes one reshape, and one to the shape that its argument has disappears.

    TVM turns a single reshape into a view, but fuses two into a kernel that copies, twice per layer.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                mod[var] = _Joiner(mod).visit_expr(function)
        return relax.transform.DeadCodeElimination()(mod)


@relax.expr_functor.mutator
class _Joiner(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if not _is_reshape(call):
            return call
        inner = self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
        source = inner.args[0] if _is_reshape(inner) else call.args[0]
        if tvm_ffi.structural_equal(source.ty.shape, call.args[1]):
            return source
        return relax.op.reshape(source, call.args[1])


def _is_reshape(expr: relax.Expr | None) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == "relax.reshape"
