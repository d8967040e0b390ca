"""The GPU's matmuls against numpy: the OpenCL that phones compile, executed on this computer's CPU."""

import numpy as np
import pytest
import tvm
from tvm import tirx

from edge_transact.compiler.gpu.kernels import OpenCLKernels, embed
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.modules import quantize_modules
from edge_transact.compiler.passes.fuse_matmuls import fuse_matmuls
from edge_transact.compiler.targets import get_target
from edge_transact.quantization import get_quantization
from tests.support.gpu_kernels import compiled, selected, weights
from tests.support.opencl import HERE
from tests.support.packed import W4F16, W4F32, product
from tests.support.relax_calls import calls

pytestmark = [pytest.mark.opencl, pytest.mark.usefixtures("executed")]

HALF, FLOAT = "float16", "float32"
CASES = {
    "KN": (Matmul("KN", HALF, W4F16, HALF, bias=True, residual=True), ((64, 66), (1024, 130), (8224, 34))),
    "KN, an MLP's narrowest and widest": (Matmul("KN", HALF, W4F16, HALF), ((32, 34), (16_000, 34))),
    "KN, an odd width": (Matmul("KN", HALF, W4F16, HALF), ((64, 33),)),
    "KN, in fp32": (Matmul("KN", FLOAT, W4F32, FLOAT, residual=True), ((64, 66),)),
    "KN, ragged": (Matmul("KN", HALF, W4F16, HALF, residual=True), ((360, 66), (48, 34))),
    "KN, gated": (Matmul("KN", HALF, W4F16, HALF, bias=True, gated=True), ((64, 34), (96, 96), (32, 16_000))),
    "KN, normalized": (Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5), ((576, 66),)),
    "KN, normalized, an odd width": (Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5), ((64, 35),)),
    "KN, normalized and gated": (Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5, gated=True), ((72, 34),)),
    "KN, normalized in fp32": (Matmul("KN", FLOAT, W4F32, FLOAT, norm_eps=1e-5), ((2056, 66),)),
    "NK": (Matmul("NK", HALF, W4F16, HALF, bias=True, residual=True), ((64, 66), (608, 33))),
    "NK, gated": (Matmul("NK", HALF, W4F16, HALF, gated=True), ((64, 34),)),
    "NK, GELU": (Matmul("NK", HALF, W4F16, HALF, gated=True, activation="gelu_pytorch_tanh"), ((64, 34),)),
    "NK, ragged in fp32": (Matmul("NK", FLOAT, W4F32, FLOAT), ((360, 66),)),
    "NK, of which 4 features": (Matmul("NK", HALF, W4F16, HALF), ((100, 40),)),
    "lm_head": (Matmul("NK", HALF, W4F16, FLOAT, norm_eps=1e-5), ((576, 259),)),
    "lm_head, many words": (Matmul("NK", HALF, W4F16, FLOAT, norm_eps=1e-5), ((32, 256_000),)),
}
"""Kinds of matmuls, with features and widths."""


@pytest.mark.parametrize(
    ("case", "rows"),
    # Only decode applies norms.
    [(case, rows) for case, (matmul, _) in CASES.items() for rows in (1, 37) if rows == 1 or matmul.norm_eps is None],
)
def test_products_of_any_width(case, rows):
    matmul, sizes = CASES[case]
    rng = np.random.default_rng(rows)
    kernels = {}
    for features, width in sizes:
        key, make = selected(matmul, rows, features, width)
        if key not in kernels:
            kernels[key] = compiled(make())
        (kernel,) = kernels.values()  # one for all sizes
        outputs = width * matmul.sections
        x = rng.normal(size=(1, rows, features)).astype(matmul.dtype)
        words, scale, matrix = weights(rng, matmul.layout, features, outputs, matmul.quantization.model_dtype)
        norm = [rng.normal(size=features).astype(matmul.dtype)] if matmul.norm_eps else []
        bias = [rng.normal(size=outputs).astype(matmul.dtype)] if matmul.bias else []
        residual = [rng.normal(size=(1, rows, width)).astype(matmul.dtype)] if matmul.residual else []
        out = tvm.runtime.tensor(np.zeros((1, rows, width), matmul.out_dtype))

        kernel(*map(tvm.runtime.tensor, (x, words, scale, *norm, *bias, *residual)), out)

        wanted = product(matmul, x, matrix, *(next(iter(part), None) for part in (norm, bias, residual)))
        # Half has 11 bits, and CPUs with half arithmetic round to them after each operation, as GPUs do. Sums in half
        # over all of K would be ten times as far off.
        off = np.sqrt(((out.numpy() - wanted) ** 2).mean() / (wanted**2).mean())
        assert off <= (1.5e-3 if matmul.dtype == HALF else 1e-6), off


@pytest.mark.parametrize("features", [64, 100])
def test_the_embedding_reads_its_rows_alone(features):
    rng = np.random.default_rng(0)
    words, scale, matrix = weights(rng, "NK", features, 50, HALF)
    ids = np.array([49, 0, 7], "int32")
    out = tvm.runtime.tensor(np.zeros((3, features), HALF))
    kernel = compiled(embed(W4F16))
    kernel(*map(tvm.runtime.tensor, (ids, words, scale)), out)
    np.testing.assert_array_equal(out.numpy(), matrix.T[ids].astype(HALF))


def test_the_embedding_of_the_last_of_256000_words():
    words = np.zeros((256_000, 4), "uint32")
    words[-1] = 0xFEDCBA98
    out = tvm.runtime.tensor(np.zeros((1, 32), HALF))
    scale = np.full((256_000, 1), 0.5, HALF)
    compiled(embed(W4F16))(*map(tvm.runtime.tensor, (np.array([255_999], "int32"), words, scale)), out)
    np.testing.assert_array_equal(out.numpy()[0], np.tile((np.arange(8, 16) - 7) / 2, 4))


@pytest.mark.parametrize(
    ("features", "dtype", "taken"), [(8192, HALF, True), (8224, HALF, False), (8192, FLOAT, False)]
)
def test_rows_that_local_memory_does_not_hold_are_normalized_by_a_kernel_of_their_own(features, dtype, taken):
    assert OpenCLKernels().takes_norm([tirx.const(size, "int64") for size in (1, 1, features)], dtype) == taken


def test_kernels_are_shared_by_layers_of_different_widths(source):
    model = quantize_modules(source.definition.model(), get_quantization("q4f16_0"), "float16")
    mod, _, _ = model.export_tvm(spec=model.get_default_spec(), allow_extern=True)
    mod = fuse_matmuls(mod, OpenCLKernels(), {})
    layers = source.definition.config.num_hidden_layers
    made = calls(mod["decode"])
    # qkv, o, gate and up, down; one product of an odd width has features that are no multiple of 8.
    assert sum(call.startswith("w4_decode") for call in made) == 4 * layers + 1 - 1
    assert not any(call.startswith(("relax.nn", "relax.add", "embed")) for call in made), made


def test_decode_loads_whole_vectors(executed):
    matmul = Matmul("KN", HALF, W4F16, HALF)
    _, make = selected(matmul, 1, 64, 64)
    compiled(make())
    assert "load_uint2(" in executed[-1] and "load_half8(" in executed[-1]
    assert "vload" not in executed[-1] and "long" not in executed[-1]


def test_a_phones_archive_has_the_same_kernels():
    """The target of these tests differs from a phone's in the host alone."""
    phone = get_target("android").tvm_target()
    assert {name: HERE.attrs[name] for name in HERE.attrs} == {name: phone.attrs[name] for name in phone.attrs}
