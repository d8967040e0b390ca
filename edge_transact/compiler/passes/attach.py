"""Adds functions to the module: allocation of embeddings, a decoded token, metadata; and bounds for memory planning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax, tirx
from tvm.relax.utils import copy_with_new_vars

from edge_transact.compiler.passes.calls import relax_functions
from edge_transact.compiler.passes.memory import memory_usage


def attach_bounds(mod: IRModule, bounds: Mapping[str, int]) -> IRModule:
    """Tell the memory planner the upper bound of each symbolic size, so that workspaces are allocated once."""
    attributes = {"tir_var_upper_bound": bounds, "relax.memory_plan_dynamic_func_output": True}
    for var, function in relax_functions(mod):
        mod[var] = function.with_attrs(attributes)
    return mod


def attach_embedding_allocation(mod: IRModule, prefill_chunk_size: int) -> IRModule:
    """Add ``alloc_embedding_tensor``: ``[prefill_chunk_size, hidden_size]``, for the embeddings of a prefill chunk."""
    embeddings = mod["embed"].ret_ty
    shape = relax.ShapeExpr([prefill_chunk_size, embeddings.shape[-1]])
    builder = relax.BlockBuilder(mod)
    with builder.function("alloc_embedding_tensor", []):
        dtype = relax.DataTypeImm(str(embeddings.dtype))
        builder.emit_func_output(builder.emit(relax.op.builtin.alloc_tensor(shape, dtype, runtime_device_index=0)))
    return builder.finalize()


def attach_metadata(mod: IRModule, metadata: dict[str, Any], bounds: Mapping[str, int]) -> IRModule:
    """Add ``_metadata``, which returns the metadata as JSON, with the `memory_usage` of the planned functions."""
    metadata["memory_usage"] = memory_usage(mod, bounds)
    builder = relax.BlockBuilder()
    with builder.function("_metadata", []):
        builder.emit_func_output(relax.StringImm(json.dumps(metadata)))
    mod["_metadata"] = builder.finalize()["_metadata"]
    return mod


def attach_decode_token(mod: IRModule) -> IRModule:
    """Add ``decode_token(ids, cache, sequences, *weights)``: the logits after one more token of one sequence.

    ``ids`` is int32 ``[1]``, ``cache`` what ``create_tir_paged_kv_cache`` returns, ``sequences`` a shape with the
    sequence's id, ``weights`` the items of the parameters' tuple; the result is fp32 ``[1, 1, vocab_size]``. It is
    ``embed``, ``begin_forward``, ``decode`` and ``end_forward`` of MLC's engine in one call. A caller binds the weights
    once (``save_function`` of TVM's ``vm.cc``). Runs before `relax.transform.CallTIRRewrite`, without dataflow blocks.
    """
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
    # The virtual machine checks the type of the first `num_input` arguments in each call.
    with builder.function("decode_token", [*inputs, *weights], {"num_input": len(inputs)}):
        embeddings = _emit(builder, embed, {embed.params[0]: ids, embed_weights: relax.Tuple(weights)})
        embeddings = builder.emit(relax.op.reshape(embeddings, input_embed.ty.shape))
        builder.emit(_kv_state("begin_forward", cache, sequences, relax.ShapeExpr([1])))
        values = {input_embed: embeddings, kv_cache: cache, decode_weights: relax.Tuple(weights)}
        result = _emit(builder, decode, values)
        builder.emit(_kv_state("end_forward", cache))
        builder.emit_func_output(builder.emit(relax.TupleGetItem(result, 0)))
    # Removes the tuples of weights.
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
