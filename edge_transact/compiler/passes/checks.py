"""Leaves out the checks of arguments that relax has checked already."""

from __future__ import annotations

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.passes.calls import calls_of


@tvm.transform.module_pass(opt_level=0, name="OmitChecks")
class OmitChecks:
    """Kernels that `relax.call_tir` calls don't check their arguments.

    The virtual machine checks the arguments of the functions that call them, and relax infers the shapes and dtypes of
    everything in between. In each kernel, the same checks would take more code than most kernels themselves. Those that
    the KV cache or MLC's engine call keep theirs.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        functions = [function for _, function in mod.functions_items() if isinstance(function, relax.Function)]
        for var in {call.args[0] for function in functions for call in calls_of(function, "relax.call_tir")}:
            mod[var] = mod[var].with_attr(UNCHECKED, True)
        return mod
