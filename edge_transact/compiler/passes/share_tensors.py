"""Makes tensors of the same memory and shape once, for all layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import tvm
import tvm_ffi
from tvm import IRModule, relax, tirx

from edge_transact.compiler.passes.calls import count_readers

SHARED = ("relax.memory.alloc_tensor", "relax.reshape")
"""Tensors of planned memory, and views: of the same memory or tensor, with the same shape, they are the same."""


@tvm.transform.module_pass(opt_level=0, name="ShareTensors")
class ShareTensors:
    """What a function would make again, of the same memory and with the same shape, is what it made first.

    A model's layers take turns in few pieces of memory. For each, TVM makes the tensors of its results, views of them,
    and the attention's scale: 336 of the 737 instructions that a token of SmolLM2 took.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass, between `relax.transform.ComputePrimValue` and `relax.transform.KillAfterLastUse`.

        The latter replaces a variable that is bound to another one. Reshapes that copy are kernels by then.
        """
        # Of a kernel with several results, each becomes the tensor that the kernel writes, and their tuple is unused.
        mod = relax.transform.CanonicalizeBindings()(mod)
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                mod[var] = _shared(mod, function)
        return mod


def _shared(mod: IRModule, function: relax.Function) -> relax.Function:
    values = [binding.value for block in function.body.blocks for binding in block.bindings]
    readers = count_readers([*values, function.body.body])
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
    body = relax.SeqExpr(blocks, function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


def _key(mod: IRModule, call: relax.Call, same: Mapping[relax.Var, relax.Var]) -> Hashable | None:
    """What is equal for calls that return the same; `None` for other calls.

    Args:
        mod: The module.
        call: The call.
        same: Variables of which another one holds the same.
    """
    if isinstance(call.op, tvm.ir.GlobalVar):
        # Without an argument that it could write to, a kernel computes a number.
        return call.op if isinstance(mod[call.op], tirx.PrimFunc) and not call.args else None
    if not (isinstance(call.op, tvm.ir.Op) and call.op.name in SHARED):
        return None
    source, *others = call.args
    rest = tvm_ffi.StructuralKey(others)  # type: ignore[call-arg]  # its stub wants the hash, too
    return call.op.name, same.get(source, source), rest
