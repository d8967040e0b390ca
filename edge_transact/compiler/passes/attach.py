"""Small additions to the module: bounds for memory planning, the embedding's allocation, the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tvm import IRModule, relax

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
