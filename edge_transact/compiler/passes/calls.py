"""What relax functions call."""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax


def calls_of(function: relax.Function, *operators: str) -> Iterator[relax.Call]:
    """The calls of these operators in a function, whose expressions are all bound to variables, as TVM's passes do."""
    for block in function.body.blocks if isinstance(function.body, relax.SeqExpr) else ():
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op) and call.op.name in operators:
                yield call
