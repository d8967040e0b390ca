"""What a relax function calls."""

import tvm
from tvm import relax


def calls(function: relax.Function) -> list[str]:
    """The operators and kernels that a function calls, in order."""
    names = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            is_kernel = expr.op.name == "relax.call_tir"
            names.append(expr.args[0].name_hint if is_kernel else expr.op.name)

    relax.analysis.post_order_visit(function, visit)
    return names
