"""The functions of a module, their calls, the variables that they read, and their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import tvm
from tvm import IRModule, relax


def relax_functions(mod: IRModule) -> list[tuple[relax.GlobalVar, relax.Function]]:
    return [(var, function) for var, function in mod.functions_items() if isinstance(function, relax.Function)]


def bindings_of(function: relax.Function) -> list[relax.Binding]:
    """All bindings of a function, in order; TVM's passes bind every expression to a variable."""
    blocks = function.body.blocks if isinstance(function.body, relax.SeqExpr) else ()
    return [binding for block in blocks for binding in block.bindings]


def with_blocks(function: relax.Function, blocks: Sequence[relax.BindingBlock]) -> relax.Function:
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def is_call_of(expr: relax.Expr | None, *operators: str) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name in operators


def calls_of(function: relax.Function, *operators: str) -> Iterator[relax.Call]:
    return (binding.value for binding in bindings_of(function) if is_call_of(binding.value, *operators))


def kernel_calls(function: relax.Function) -> Iterator[relax.Call]:
    """The kernel calls of a function, as TVM's `CallTIRRewrite` makes them: with the tensors that they write."""
    for binding in bindings_of(function):
        if isinstance(binding.value, relax.Call) and isinstance(binding.value.op, tvm.ir.GlobalVar):
            yield binding.value


def count_readers(expressions: Iterable[relax.Expr]) -> Counter[relax.Var]:
    """How many of the expressions read each variable."""
    return Counter(var for expression in expressions for var in set(relax.analysis.free_vars(expression)))


def weights_of(function: relax.Function) -> set[relax.Var]:
    """The variables that are bound to items of a tuple that is a parameter."""
    items = [binding for binding in bindings_of(function) if isinstance(binding.value, relax.TupleGetItem)]
    parameters = set(function.params)
    return {binding.var for binding in items if binding.value.tuple_value in parameters}
