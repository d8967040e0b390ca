"""What surrounds a matmul with packed weights in the model becomes part of the matmul's kernel."""

import tvm
from tvm import relax

from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.fuse_matmuls import FuseMatmuls
from edge_transact.quantization import get_quantization
from tests.support.cpu_kernels import HOST


def calls(function: relax.Function) -> list[str]:
    """The operators and kernels that a function calls, in order."""
    names = []

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            is_kernel = expr.op.name == "relax.call_tir"
            names.append(expr.args[0].name_hint if is_kernel else expr.op.name)

    relax.analysis.post_order_visit(function, visit)
    return names


def fused(source, name: str) -> tvm.IRModule:
    model = quantize_modules(source.definition.model(), get_quantization(name), "float32")
    mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    return FuseMatmuls(CPUKernels(HOST))(mod)


def test_decode_is_one_matmul_and_a_chain_after_each_attention(source):
    for name in ("q4f16_0", "q4f32_1"):
        mod = fused(source, name)
        called = calls(mod["decode"])
        layers = source.definition.config.num_hidden_layers
        assert sum(call.startswith("w4_decode") for call in called) == 1
        assert sum(call.startswith("w4_chain") for call in called) == layers
        # The chain is o_proj, gate_up_proj, down_proj and the next qkv_proj or the logits. Its arguments are x and the
        # residual, all weights and scales, two norms, the biases of all but the logits, and the results.
        arguments = [len(mod[var].params) for var in mod.get_global_vars() if var.name_hint.startswith("w4_chain")]
        assert sorted(arguments) == [2 + 8 + 2 + 3 + 1, 2 + 8 + 2 + 4 + 2]
        left = {"relax.nn.rms_norm", "relax.nn.silu", "relax.add", "relax.multiply"} & set(called)
        assert not left, f"{left} not fused"


def test_kernels_are_shared_by_layers_of_all_widths(source):
    mod = fused(source, "q4f16_0")
    kernels = [var.name_hint for var in mod.get_global_vars() if var.name_hint.startswith("w4_")]
    # One row: qkv, two chains, and the logits of a prompt. Many rows: qkv, o and down, gate and up, and the logits with
    # and without the norm. And the embedding.
    assert len(kernels) <= 10, kernels
    assert not [var.name_hint for var in mod.get_global_vars() if var.name_hint.startswith("dequantize_matmul")]
