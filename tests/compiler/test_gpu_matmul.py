"""The GPU's products against numpy: their TIR, with the threads of a work group one after the other, on this CPU."""

import numpy as np
import pytest
import tvm
from tvm import tirx

from edge_transact.compiler.gpu.matmul import GPUKernels, columns_a_thread, decode, prefill
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.fuse_matmuls import FuseMatmuls
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.cpu_kernels import compiled
from tests.support.relax_calls import calls

CASES = {
    "2 columns a thread": (Matmul("KN", "float16", "float16", "float16", residual=True), ((32, 2), (160, 66))),
    "4 and 4": (Matmul("KN", "float32", "float32", "float32", bias=True, gated=True), ((32, 128), (64, 384))),
    "8, in fp32": (Matmul("KN", "float16", "float16", "float32", bias=True, residual=True), ((64, 256),)),
}
"""Kinds of products, with features and widths."""


def one_after_the_other(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with loops in place of threads: between two loops over the same threads is a barrier's place."""

    def serial(loop: tirx.For) -> tirx.For | None:
        if loop.kind != tirx.ForKind.THREAD_BINDING:
            return None
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    return function.with_body(tirx.stmt_functor.ir_transform(function.body, None, serial, ["tirx.For"]))


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("case", CASES)
def test_products_of_any_width(case, rows):
    kind, sizes = CASES[case]
    (columns,) = {columns_a_thread(kind, width) for _, width in sizes}
    kernel = compiled(one_after_the_other(decode(kind) if rows == 1 else prefill(kind, columns)))
    rng = np.random.default_rng(rows)
    for features, width in sizes:
        n = width * kind.sections
        x = rng.normal(size=(1, rows, features)).astype(kind.dtype)
        nibbles = rng.integers(0, 16, (features, n), dtype="uint32")
        shifts = np.arange(8, dtype="uint32")[None, :, None] * 4
        weight = (nibbles.reshape(-1, 8, n) << shifts).sum(1, dtype="uint32")
        scale = (rng.uniform(0.01, 0.1, (features // 32, n)) * rng.choice([-1, 1], (features // 32, n))).astype(
            kind.scale_dtype
        )
        bias = [rng.normal(size=n).astype(kind.dtype)] if kind.bias else []
        residual = [rng.normal(size=(1, rows, width)).astype(kind.dtype)] if kind.residual else []
        out = np.zeros((1, rows, width), kind.out_dtype)

        kernel(x, weight, scale, *bias, *residual, out)

        wanted = x.astype("float64") @ ((nibbles - 7.0) * np.repeat(scale.astype("float64"), 32, 0))
        wanted += sum(bias)
        if kind.gated:
            gate, up = np.split(wanted, 2, -1)
            wanted = gate / (1 + np.exp(-gate)) * up
        wanted += sum(residual)
        tolerance = 1e-2 if kind.dtype == "float16" else 1e-5
        np.testing.assert_allclose(out, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_kernels_are_shared_by_layers_of_different_widths(source):
    model = quantize_modules(source.definition.model(), get_quantization("q4f16_0"), "float16")
    mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    mod = FuseMatmuls(GPUKernels())(mod)
    names = [var.name_hint for var in mod.get_global_vars()]
    # qkv, o and down, gate and up, the logits.
    assert sum(name.startswith("w4_decode") for name in names) == 4, names
    made, layers = calls(mod["decode"]), source.definition.config.num_hidden_layers
    # But for the MLP of an odd width, all products are among them.
    assert sum(call.startswith("w4_decode") for call in made) == 4 * layers + 1 - 2
    assert made.count("relax.nn.silu") == 1


def test_neighbours_are_loaded_as_vectors():
    kernel = prefill(Matmul("KN", "float16", "float16", "float16"), 4).with_attr("global_symbol", "kernel")
    target = get_target("android").tvm_target()
    mod = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"kernel": kernel}))
    text = tvm.compile(mod, target=target).mod.imports[0].inspect_source()
    assert "half4" in text and "vload4(0, " in text and "vload16(0, " in text
    assert "long" not in text and ".s0" not in text
