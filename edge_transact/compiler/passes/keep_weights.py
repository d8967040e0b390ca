"""Lets the virtual machine hold weights until a function ends."""

from __future__ import annotations

from collections.abc import Set

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.passes.calls import weights_of


@tvm.transform.module_pass(opt_level=0, name="KeepWeights")
class KeepWeights:
    """Weights aren't given up one by one after their last use, which frees nothing: the caller's tuple holds them.

    It would be a fifth of a library's bytecode, and more of the instructions of a token.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass, after `relax.transform.KillAfterLastUse`."""
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function) and (weights := weights_of(function)):
                mod[var] = _kept(function, weights)
        return mod


def _kept(function: relax.Function, weights: Set[relax.Var]) -> relax.Function:
    blocks = [
        relax.BindingBlock([binding for binding in block.bindings if not _gives_up(binding.value, weights)])
        for block in function.body.blocks
    ]
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _gives_up(value: relax.Expr, weights: Set[relax.Var]) -> bool:
    is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
    return is_call and value.op.name == "relax.memory.kill_tensor" and value.args[0] in weights
