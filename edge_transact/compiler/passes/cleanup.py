"""Removes work that isn't needed: checks of arguments that can only be right, and reshapes of reshapes."""

from __future__ import annotations

import tvm_ffi
from tvm import IRModule, relax

from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.passes.calls import calls_of, is_call_of, relax_functions, weights_of

DECODE = ("decode", "batch_decode")
"""The functions that only run after prefill has run with the same weights."""


def omit_checks(mod: IRModule) -> IRModule:
    """Let kernels called by `relax.call_tir` skip argument checks, which often take more code than the kernel itself.

    Relax infers and allocates all tensors between kernels. Kernels that read a function's parameters keep their checks,
    to refuse the weights of another library, as do kernels called by the KV cache or by MLC's engine.
    """
    called: set[relax.GlobalVar] = set()
    checks: set[relax.GlobalVar] = set()
    for var, function in relax_functions(mod):
        outside = set(function.params) | (set() if var.name_hint in DECODE else weights_of(function))
        for call in calls_of(function, "relax.call_tir"):
            called.add(call.args[0])
            if outside.intersection(call.args[1].fields):
                checks.add(call.args[0])
    for kernel in called - checks:
        mod[kernel] = mod[kernel].with_attr(UNCHECKED, True)
    return mod


def join_reshapes(mod: IRModule) -> IRModule:
    """Join reshapes of reshapes, which TVM would fuse into a kernel that copies, and remove those without effect."""
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
