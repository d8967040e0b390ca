"""Replaces the definition's generic KV cache creation by TVM's paged KV cache for the target."""

from __future__ import annotations

import json
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.relax.frontend.nn.llm import kv_cache as llm

from edge_transact.compiler.cpu import attention, isa
from edge_transact.compiler.gpu.attention import LANES, decode, merge, rotated_before
from edge_transact.costs import ENGINE_FREE_TOKENS

GENERIC_CALL = "mlc.create_paged_kv_cache_generic"

_ARGUMENTS = (
    "attn_kind runtime_shape layer_partition num_hidden_layers num_attention_heads num_key_value_heads qk_head_dim "
    "v_head_dim mla_original_qk_head_dim mla_original_v_head_dim rope_mode rope_scale rope_theta rope_scaling "
    "rope_ext_factors rotary_dim enable_disaggregation dtype"
)
"""The arguments of the generic call, in the order of MLC-LLM's ``nn/kv_cache.py``."""

_RUNTIME_SHAPE = ("max_batch_size", "max_total_seq_len", "prefill_chunk_size", "page_size", "support_sliding_window")


def create_kv_cache(mod: IRModule, target: tvm.target.Target, metadata: dict[str, Any]) -> IRModule:
    """Replace ``create_paged_kv_cache`` by ``create_tir_paged_kv_cache``, and add ``kv_cache`` to `metadata`."""
    arguments = _arguments(mod["create_paged_kv_cache"])
    metadata["kv_cache"] = {
        **{name: arguments[name] for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")},
        "head_dim": arguments["qk_head_dim"],
    }
    others = {var: function for var, function in mod.functions_items() if var.name_hint != "create_paged_kv_cache"}
    builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
    shape = arguments["runtime_shape"]
    parameters = [
        relax.Var(f"{name}_", relax.ShapeType([size])) for name, size in zip(_RUNTIME_SHAPE, shape, strict=True)
    ]
    kernels = _kernels(target, arguments)
    # Room for one context window is `ENGINE_FREE_TOKENS` larger: at its end, MLC's engine would fail.
    free, none = (tirx.IntImm("int64", tokens) for tokens in (ENGINE_FREE_TOKENS, 0))
    shape[1] += tirx.if_then_else(shape[1] == metadata["context_window_size"], free, none)
    with builder.function("create_tir_paged_kv_cache", parameters):
        variables = {name: builder.add_func(function, name) for name, function in kernels.items()}
        builder.emit_func_output(_creation(arguments, variables))
    return builder.finalize()


def _creation(arguments: dict[str, Any], kernels: dict[str, relax.GlobalVar]) -> relax.Call:
    """The call that creates the cache. An empty tuple omits a kernel (``ConvertPagedPrefillFunc`` in TVM's runtime)."""

    def tir(name: str) -> relax.Tuple:
        return relax.Tuple([relax.StringImm("tirx"), kernels[name]])

    def prim_values(*names: str) -> list[relax.Expr]:
        return [relax.prim_value(arguments[name]) for name in names]

    none = relax.Tuple([])
    return relax.call_pure_packed(
        "vm.builtin.paged_attention_kv_cache_create",
        relax.ShapeExpr(arguments["runtime_shape"]),
        arguments["layer_partition"],
        *prim_values("num_attention_heads", "num_key_value_heads", "qk_head_dim", "v_head_dim"),
        relax.ShapeExpr([int(llm.AttnKind.MHA)] * arguments["num_hidden_layers"]),
        *prim_values("enable_disaggregation", "rope_mode", "rope_scale", "rope_theta"),
        arguments["rope_ext_factors"],
        relax.op.zeros((), arguments["dtype"]),
        kernels["append"],
        none,  # append, for MLA
        tir("prefill_ragged"),
        tir("prefill"),
        tir("decode"),
        *(none, none),  # prefill and decode, for sliding windows
        *(none, none),  # prefill of the cache and of new tokens, for trees
        none,  # prefill, for MLA
        relax.Tuple([kernels["merge"]]),
        *(kernels[name] for name in ("split_rotary", "copy_page", "debug_get_kv", "compact_copy")),
        ty_args=relax.AnyType(),
    )


def _kernels(target: tvm.target.Target, arguments: dict[str, Any]) -> dict[str, tirx.PrimFunc]:
    """The cache's kernels by name. TVM's for CPUs are scalar and single-threaded; ours replace them for most heads."""
    q, kv, dim = (arguments[name] for name in ("num_attention_heads", "num_key_value_heads", "qk_head_dim"))
    dtype, scaling, page_size = arguments["dtype"], arguments["rope_scaling"], arguments["runtime_shape"][3]

    def split_rotary() -> tirx.PrimFunc:
        theta, scale, rotary_dim = (arguments[name] for name in ("rope_theta", "rope_scale", "rotary_dim"))
        return llm.llama_rope_with_position_map(theta, scale, dim, q, kv, dtype, scaling, rotary_dim)

    debug_get_kv = llm._kv_cache_debug_get_kv(arguments["num_hidden_layers"], kv, dim, dtype)
    if target.kind.name != "llvm":
        # Ours is OpenCL C.
        ours = target.kind.name == "opencl" and dim % LANES == 0
        return {
            "append": llm._kv_cache_transpose_append(kv, dim, dtype),
            "prefill_ragged": rotated_before(llm._attention_prefill_ragged(kv, q, dim, dim, dtype, scaling, target)),
            "prefill": rotated_before(llm._attention_prefill(kv, q, dim, dtype, False, scaling, target)),
            "decode": decode(q, kv, dim, dtype)
            if ours
            else rotated_before(llm._attention_decode(kv, q, dim, dtype, False, scaling, target)),
            "merge": merge(q, dim, dtype, int(target.attrs["max_num_threads"])),
            "split_rotary": split_rotary(),
            "copy_page": llm._copy_single_page(kv, page_size, dim, dtype, target),
            "debug_get_kv": debug_get_kv,
            "compact_copy": llm._compact_kv_copy(kv, dim, dtype, target),
        }
    kernels = {
        "copy_page": llm._copy_single_page_cpu(kv, page_size, dim, dtype),
        "debug_get_kv": debug_get_kv,
        "compact_copy": llm._compact_kv_copy_cpu(kv, dim, dtype),
    }
    lanes = attention.lanes_for(dim, isa.select(target, 2, "one").lanes)
    if lanes is not None and arguments["rotary_dim"] == dim:
        heads = attention.Attention(q, kv, dim, dtype, lanes)
        frequencies = attention.inverse_frequencies(dim, arguments["rope_theta"], scaling)
        return kernels | attention.kernels(heads, frequencies, int(target.attrs["num-cores"]))
    return kernels | {
        "append": llm._kv_cache_transpose_append(kv, dim, dtype),
        "prefill_ragged": llm._attention_prefill_ragged_cpu(kv, q, dim, dim, dtype, scaling),
        "prefill": llm._attention_prefill_cpu(kv, q, dim, dtype, False, scaling),
        "decode": llm._attention_decode_cpu(kv, q, dim, dtype, False, scaling),
        "merge": llm._merge_state_inplace_cpu(dtype),
        "split_rotary": split_rotary(),
    }


def _arguments(creation: relax.Function) -> dict[str, Any]:
    calls: list[relax.Call] = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and expr.args and getattr(expr.args[0], "global_symbol", "") == GENERIC_CALL:
            calls.append(expr)

    relax.analysis.post_order_visit(creation.body, visit)
    (call,) = calls
    values = dict(zip(_ARGUMENTS.split(), call.args[1:], strict=True))
    plain = {name: getattr(value, "value", value) for name, value in values.items()}
    return plain | {
        "runtime_shape": list(values["runtime_shape"].values),
        "rope_scaling": json.loads(plain["rope_scaling"]),
        "rope_ext_factors": values["rope_ext_factors"],
        "enable_disaggregation": bool(plain["enable_disaggregation"]),
        "dtype": str(plain["dtype"]),
    }
