"""Device memory that functions allocate: planned tensors, and temporaries of GPU kernels."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import tvm
from tvm import IRModule, relax, tirx

from edge_transact.compiler.launches import argument_sizes, buffer_bytes, launches, value
from edge_transact.compiler.passes.calls import calls_of, kernel_calls, relax_functions
from edge_transact.errors import EdgeTransactError


def memory_usage(mod: IRModule, bounds: Mapping[str, int]) -> dict[str, int]:
    """The most bytes that each function allocates, by name; memory is planned, and `bounds` are the largest sizes.

    On a CPU, kernels' own temporaries aren't counted. Raises an `EdgeTransactError` for memory of unbounded size.
    """
    usage = {}
    for var, function in relax_functions(mod):
        try:
            usage[var.name_hint] = _planned_bytes(function, bounds) + _temporary_bytes(mod, function, bounds)
        except ValueError as error:
            raise EdgeTransactError(
                f"no bound limits what {var.name_hint} allocates: {error}", fix="Report this as a bug."
            ) from error
    return usage


def check_temporaries(mod: IRModule, lowered: IRModule, prefix: str) -> None:
    """Raise an `EdgeTransactError` if a `lowered` kernel allocates memory that `memory_usage` hasn't counted."""
    counted = {call.op.name_hint for _, function in relax_functions(mod) for call in kernel_calls(function)}
    for var, function in lowered.functions_items():
        name = var.name_hint.removeprefix(prefix)
        temporaries = launches(function).temporaries
        if temporaries and not (name in counted and launches(mod[name]).temporaries):
            raise EdgeTransactError(
                f"{name} allocates {temporaries[0].name} on the GPU, which memory_usage doesn't count",
                fix="Report this as a bug.",
            )


def _planned_bytes(function: relax.Function, bounds: Mapping[str, int]) -> int:
    total = 0
    for call in calls_of(function, "relax.memory.alloc_storage", "relax.builtin.alloc_tensor"):
        count = prod(_bound(size, bounds) for size in call.args[0].values)
        if call.op.name == "relax.builtin.alloc_tensor":
            count *= (tvm.DataType(call.args[1].value).bits + 7) // 8
        total += count
    return total


def _temporary_bytes(mod: IRModule, function: relax.Function, bounds: Mapping[str, int]) -> int:
    """The temporaries of the kernel that allocates most: each frees its own."""
    most, calls = 0, list(kernel_calls(function))
    # Layers share kernels.
    launches_of = {name: launches(mod[name]) for name in {call.op.name_hint for call in calls}}
    for call in calls:
        kernel, found = mod[call.op], launches_of[call.op.name_hint]
        if found.kernels and found.temporaries:
            shapes = [
                [_bound(size, bounds) for size in argument.ty.shape.values]
                if isinstance(argument.ty, relax.TensorType)
                else int(argument)
                for argument in call.args
            ]
            sizes = argument_sizes(kernel, shapes)
            most = max(most, sum(buffer_bytes(buffer, sizes) for buffer in found.temporaries))
    return most


def _bound(size: tirx.Expr, bounds: Mapping[str, int]) -> int:
    """The largest value of a size, which grows with its symbols."""
    symbols = tirx.analysis.undefined_vars(size)
    return value(size, {var: bounds[var.name] for var in symbols if var.name in bounds})
