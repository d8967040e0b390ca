"""Leaves out the checks of arguments that relax has checked already."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.lowering import UNCHECKED


@tvm.transform.module_pass(opt_level=0, name="OmitChecks")
class OmitChecks:
    """Kernels that `relax.call_tir` calls don't check their arguments.

    The virtual machine checks the arguments of the functions that call them, and relax infers the shapes and dtypes of
    everything in between. In each kernel, the same checks would take more code than most kernels themselves. Those that
    the KV cache or MLC's engine call keep theirs.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        called: set[relax.GlobalVar] = set()

        def visit(expr: relax.Expr) -> None:
            if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == "relax.call_tir":
                called.add(expr.args[0])

        for _, function in mod.functions_items():
            if isinstance(function, relax.Function):
                relax.analysis.post_order_visit(function, visit)
        for var in called:
            mod[var] = mod[var].with_attr(UNCHECKED, True)
        return mod
