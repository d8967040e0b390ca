"""What relax functions call and read, and the weights that they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import tvm
from tvm import relax


def calls_of(function: relax.Function, *operators: str) -> Iterator[relax.Call]:
    """The calls of these operators in a function, whose expressions are all bound to variables, as TVM's passes do."""
    for call in _calls(function):
        if isinstance(call.op, tvm.ir.Op) and call.op.name in operators:
            yield call


def kernel_calls(function: relax.Function) -> Iterator[relax.Call]:
    """The calls of kernels with the tensors that they write, as TVM's `CallTIRRewrite` makes them of ``call_tir``."""
    for call in _calls(function):
        if isinstance(call.op, tvm.ir.GlobalVar):
            yield call


def count_readers(expressions: Iterable[relax.Expr]) -> Counter[relax.Var]:
    """How many of the expressions read each variable."""
    return Counter(var for expression in expressions for var in set(relax.analysis.free_vars(expression)))


def weights_of(function: relax.Function) -> set[relax.Var]:
    """The variables that are bound to items of a tuple that is a parameter."""
    blocks = function.body.blocks if isinstance(function.body, relax.SeqExpr) else []
    items = [binding for block in blocks for binding in block.bindings if isinstance(binding.value, relax.TupleGetItem)]
    parameters = set(function.params)
    return {binding.var for binding in items if binding.value.tuple_value in parameters}


def _calls(function: relax.Function) -> Iterator[relax.Call]:
    for block in function.body.blocks if isinstance(function.body, relax.SeqExpr) else ():
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.value
