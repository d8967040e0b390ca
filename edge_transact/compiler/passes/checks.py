"""Leaves out checks of arguments that can only be right."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.passes.calls import calls_of, weights_of

DECODE = ("decode", "batch_decode")
"""The functions that only run after prefill has run with the same weights."""


@tvm.transform.module_pass(opt_level=0, name="OmitChecks")
class OmitChecks:
    """Kernels that `relax.call_tir` calls don't check their arguments, which would often take more code than they do.

    Relax infers the shapes and dtypes of everything between kernels, and allocates it. What comes from outside is
    checked by the kernels that read it: the virtual machine only counts weights, and doesn't look at where in its
    storage an argument begins. Weights are checked in prefill, so that a library refuses those of another one. Kernels
    that the KV cache or MLC's engine call keep their checks.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        called: set[relax.GlobalVar] = set()
        checks: set[relax.GlobalVar] = set()
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                outside = set(function.params) | (set() if var.name_hint in DECODE else weights_of(function))
                for call in calls_of(function, "relax.call_tir"):
                    called.add(call.args[0])
                    if outside.intersection(call.args[1].fields):
                        checks.add(call.args[0])
        for kernel in called - checks:
            mod[kernel] = mod[kernel].with_attr(UNCHECKED, True)
        return mod
