"""Leaves out checks of arguments that can only be right."""

from __future__ import annotations

from tvm import IRModule, relax

from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.passes.calls import calls_of, relax_functions, weights_of

DECODE = ("decode", "batch_decode")
"""The functions that only run after prefill has run with the same weights."""


def omit_checks(mod: IRModule) -> IRModule:
    """Let kernels called by `relax.call_tir` skip argument checks, which often take more code than the kernel itself.

    Relax infers and allocates all tensors between kernels. Kernels that read a function's parameters keep their checks,
    since the virtual machine only counts them; weights are checked in prefill, so that a library refuses those of
    another one. Kernels called by the KV cache or by MLC's engine keep their checks.
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
