"""Adds what a host library's caller calls for a decoded token."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import IRModule, relax, tirx
from tvm.relax.utils import copy_with_new_vars


@tvm.transform.module_pass(opt_level=0, name="AttachDecodeToken")
class AttachDecodeToken:
    """Adds ``decode_token(ids, cache, sequences, *weights)``: the logits after one more token of one sequence.

    ``ids`` is int32 ``[1]``, ``cache`` what ``create_tir_paged_kv_cache`` returns, ``sequences`` a shape with the
    sequence's id, ``weights`` the items of the parameters' tuple; the result is fp32 ``[1, 1, vocab_size]``.

    It is ``embed``, ``begin_forward``, ``decode`` and ``end_forward`` of MLC's engine in one call. Weights are
    arguments of their own, so that a caller can bind them once (``save_function`` of TVM's ``vm.cc``). Taking SmolLM2's
    303 out of a tuple, and Python between four calls, would take 30 microseconds more of a token: the weights that it
    has read have pushed all else out of the caches.

    Libraries that apps link have no such function: MLC's engine wouldn't call it.
    """

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass, before `relax.transform.CallTIRRewrite`, and where no block is a dataflow block."""
        if mod.attrs and "system_lib_prefix" in mod.attrs:
            return mod
        embed, decode = (copy_with_new_vars(mod[name]) for name in ("embed", "decode"))
        input_ids, embed_weights = embed.params
        input_embed, kv_cache, decode_weights = decode.params
        embed = embed.bind_symbolic_vars({input_ids.ty.shape[0]: tirx.const(1, "int64")})
        ids = relax.Var("ids", relax.TensorType([1], input_ids.ty.dtype))
        cache = relax.Var("cache", kv_cache.ty)
        sequences = relax.Var("sequences", relax.ShapeType(ndim=1))
        weights = [relax.Var(f"weight_{number}", ty) for number, ty in enumerate(decode_weights.ty.fields)]
        inputs = [ids, cache, sequences]
        builder = relax.BlockBuilder(mod)
        # Only of so many arguments, the type is checked in each call.
        with builder.function("decode_token", [*inputs, *weights], {"num_input": len(inputs)}):
            embeddings = _emit(builder, embed, {embed.params[0]: ids, embed_weights: relax.Tuple(weights)})
            embeddings = builder.emit(relax.op.reshape(embeddings, input_embed.ty.shape))
            builder.emit(_kv_state("begin_forward", cache, sequences, relax.ShapeExpr([1])))
            values = {input_embed: embeddings, kv_cache: cache, decode_weights: relax.Tuple(weights)}
            result = _emit(builder, decode, values)
            builder.emit(_kv_state("end_forward", cache))
            builder.emit_func_output(builder.emit(relax.TupleGetItem(result, 0)))
        # Weights are taken out of no tuple then.
        return relax.transform.CanonicalizeBindings()(builder.get())


def _emit(builder: relax.BlockBuilder, function: relax.Function, values: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """Emit a function's body for these values of its parameters, and return its result."""
    body = function.bind_params(dict(values)).body
    for block in body.blocks:
        for binding in block.bindings:
            builder.emit_normalized(binding)
    return body.body


def _kv_state(name: str, *arguments: relax.Expr) -> relax.Call:
    return relax.Call(relax.ExternFunc(f"vm.builtin.kv_state_{name}"), arguments, ty_args=[relax.ObjectType()])
