"""Small additions to the module: bounds for memory planning, the embedding's allocation, the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import IRModule, relax

from edge_transact.compiler.passes.memory import memory_usage


@tvm.transform.module_pass(opt_level=0, name="AttachBounds")
class AttachBounds:
    """Tells the memory planner the upper bound of each symbolic size, so that workspaces are allocated once.

    Args:
        bounds: The largest value of each symbolic size, by name.
    """

    def __init__(self, bounds: Mapping[str, int]) -> None:
        self.bounds = bounds

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        for var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                mod[var] = function.with_attrs(
                    {
                        "tir_var_upper_bound": self.bounds,
                        "relax.memory_plan_dynamic_func_output": True,
                    }
                )
        return mod


@tvm.transform.module_pass(opt_level=0, name="AttachEmbeddingAllocation")
class AttachEmbeddingAllocation:
    """Adds ``alloc_embedding_tensor``, which allocates ``[prefill_chunk_size, hidden_size]`` for a chunk's embeddings.

    Args:
        prefill_chunk_size: Tokens of a prefill chunk.
    """

    def __init__(self, prefill_chunk_size: int) -> None:
        self.prefill_chunk_size = prefill_chunk_size

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        embeddings = mod["embed"].ret_ty
        shape = relax.ShapeExpr([self.prefill_chunk_size, embeddings.shape[-1]])
        builder = relax.BlockBuilder(mod)
        with builder.function("alloc_embedding_tensor", []):
            dtype = relax.DataTypeImm(str(embeddings.dtype))
            builder.emit_func_output(builder.emit(relax.op.builtin.alloc_tensor(shape, dtype, runtime_device_index=0)))
        return builder.finalize()


@tvm.transform.module_pass(opt_level=0, name="AttachMetadata")
class AttachMetadata:
    """Adds ``_metadata``, which returns JSON. Runs after memory planning, because it tells what functions allocate.

    Args:
        metadata: The pass adds ``memory_usage``: bytes by name of the function.
        bounds: The largest value of each symbolic size, by name.
    """

    def __init__(self, metadata: dict[str, Any], bounds: Mapping[str, int]) -> None:
        self.metadata, self.bounds = metadata, bounds

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        self.metadata["memory_usage"] = memory_usage(mod, self.bounds)
        builder = relax.BlockBuilder()
        with builder.function("_metadata", []):
            builder.emit_func_output(relax.StringImm(json.dumps(self.metadata)))
        mod["_metadata"] = builder.finalize()["_metadata"]
        return mod
