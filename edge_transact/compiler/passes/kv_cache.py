"""Replaces the definition's generic KV cache creation by TVM's paged KV cache for the target."""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import IRModule, relax
from tvm.relax.frontend.nn.llm.kv_cache import TIRPagedKVCache

from edge_transact.compiler.cpu import attention, isa

GENERIC_CALL = "mlc.create_paged_kv_cache_generic"

_ARGUMENTS = (
    "attn_kind",
    "runtime_shape",
    "layer_partition",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "qk_head_dim",
    "v_head_dim",
    "mla_original_qk_head_dim",
    "mla_original_v_head_dim",
    "rope_mode",
    "rope_scale",
    "rope_theta",
    "rope_scaling",
    "rope_ext_factors",
    "rotary_dim",
    "enable_disaggregation",
    "dtype",
)
"""The arguments of the generic call, in the order of MLC-LLM's ``nn/kv_cache.py``."""

_RUNTIME_SHAPE = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")


@tvm.transform.module_pass(opt_level=0, name="CreateKVCache")
class CreateKVCache:
    """The generic ``create_paged_kv_cache`` becomes ``create_tir_paged_kv_cache`` with the target's kernels.

    Args:
        target: The target of the kernels.
        metadata: The pass adds ``kv_cache``, from which MLC's engine computes the size of the cache.
    """

    def __init__(self, target: tvm.target.Target, metadata: dict[str, Any]) -> None:
        self.target = target
        self.metadata = metadata

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        creation = mod["create_paged_kv_cache"]
        arguments = _arguments(creation)
        self.metadata["kv_cache"] = {
            "num_hidden_layers": arguments["num_hidden_layers"],
            "num_attention_heads": arguments["num_attention_heads"],
            "num_key_value_heads": arguments["num_key_value_heads"],
            "head_dim": arguments["qk_head_dim"],
        }
        others = {var: function for var, function in mod.functions_items() if var.name_hint != "create_paged_kv_cache"}
        builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
        shape = arguments.pop("runtime_shape")
        parameters = [
            relax.Var(f"{name}_", relax.ShapeType([size])) for name, size in zip(_RUNTIME_SHAPE, shape, strict=True)
        ]
        sizes = dict(zip(_RUNTIME_SHAPE, shape, strict=True))
        with builder.function("create_tir_paged_kv_cache", parameters):
            cache = TIRPagedKVCache(target=self.target, **sizes, **arguments)
            builder.emit_func_output(cache._expr)
        mod = builder.finalize()
        if self.target.kind.name == "llvm":
            _use_cpu_kernels(mod, self.target, arguments)
        return mod


def _use_cpu_kernels(mod: IRModule, target: tvm.target.Target, arguments: dict[str, Any]) -> None:
    """Replace TVM's kernels, which are scalar and single-threaded, by ours where they support the heads."""
    head_dim = arguments["qk_head_dim"]
    lanes = attention.lanes_for(head_dim, isa.select(target, 2).lanes)
    if lanes is None or arguments["rotary_dim"] != head_dim:
        return
    heads = attention.Attention(
        arguments["num_attention_heads"], arguments["num_key_value_heads"], head_dim, str(arguments["dtype"]), lanes
    )
    frequencies = attention.inverse_frequencies(head_dim, arguments["rope_theta"], arguments["rope_scaling"])
    threads = int(target.attrs["num-cores"])
    for name, function in attention.kernels(heads, frequencies, threads).items():
        mod[mod.get_global_var(name)] = function


def _arguments(creation: relax.Function) -> dict[str, Any]:
    calls: list[relax.Call] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.args and getattr(expr.args[0], "global_symbol", "") == GENERIC_CALL:
            calls.append(expr)

    relax.analysis.post_order_visit(creation.body, visit)
    (call,) = calls
    values = dict(zip(_ARGUMENTS, call.args[1:], strict=True))
    plain = {name: getattr(value, "value", value) for name, value in values.items()}
    plain["runtime_shape"] = list(values["runtime_shape"].values)
    plain["rope_scaling"] = json.loads(plain["rope_scaling"])
    plain["rope_ext_factors"] = values["rope_ext_factors"]
    plain["enable_disaggregation"] = bool(plain["enable_disaggregation"])
    return plain
