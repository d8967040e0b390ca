"""Saves the virtual machine work: equal tensors are made once, and weights are held until a function ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx

from edge_transact.compiler.passes import calls


def share_tensors(mod: IRModule) -> IRModule:
    """Make each tensor and view of the same planned memory and shape once per function.

    Runs between `relax.transform.ComputePrimValue` and `relax.transform.KillAfterLastUse`, which replaces a variable
    that is bound to another. Reshapes that copy are kernels by then.
    """
    # Items of a kernel's tuple of results become the tensors that the kernel writes, which leaves the tuple unused.
    mod = relax.transform.CanonicalizeBindings()(mod)
    for var, function in calls.relax_functions(mod):
        mod[var] = _shared(mod, function)
    return mod


def _shared(mod: IRModule, function: relax.Function) -> relax.Function:
    readers = calls.count_readers([*(binding.value for binding in calls.bindings_of(function)), function.body.body])
    made: dict[Hashable, relax.Var] = {}
    same: dict[relax.Var, relax.Var] = {}
    blocks = []
    for block in function.body.blocks:
        bindings = []
        for binding in block.bindings:
            var, value = binding.var, binding.value
            if isinstance(value, relax.Tuple) and not readers[var]:
                continue
            key = _key(mod, value, same) if isinstance(value, relax.Call) else None
            if key is not None and key in made:
                same[var] = made[key]
                binding = relax.VarBinding(var, made[key])
            elif key is not None:
                made[key] = var
            bindings.append(binding)
        blocks.append(relax.BindingBlock(bindings))
    return calls.with_blocks(function, blocks)


def _key(mod: IRModule, call: relax.Call, same: Mapping[relax.Var, relax.Var]) -> Hashable | None:
    """A key that calls with the same result share; `None` for calls that must stay. `same` maps variables to equals."""
    if isinstance(call.op, tvm.ir.GlobalVar):
        # Without an argument that it could write to, a kernel computes a number.
        return call.op if isinstance(mod[call.op], tirx.PrimFunc) and not call.args else None
    if not calls.is_call_of(call, "relax.memory.alloc_tensor", "relax.reshape"):
        return None
    source, *others = call.args
    rest = tvm_ffi.StructuralKey(others)  # type: ignore[call-arg]  # its stub wants the hash, too
    return call.op.name, same.get(source, source), rest


def keep_weights(mod: IRModule) -> IRModule:
    """Don't release weights after `relax.transform.KillAfterLastUse`: the caller's tuple holds them anyway."""
    for var, function in calls.relax_functions(mod):
        if weights := calls.weights_of(function):
            blocks = [
                relax.BindingBlock([each for each in block.bindings if not _releases(each.value, weights)])
                for block in function.body.blocks
            ]
            mod[var] = calls.with_blocks(function, blocks)
    return mod


def _releases(value: relax.Expr, weights: set[relax.Var]) -> bool:
    return calls.is_call_of(value, "relax.memory.kill_tensor") and value.args[0] in weights
