"""The CPU's products with packed weights are the products with the dequantized weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_transact.compiler.cpu.matmul import chain, embed, kernel, supports
from edge_transact.compiler.matmul import ChainedMatmul, Matmul
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from tests.support.cpu_kernels import INSTRUCTION_SETS, compiled, describe

QUANTIZATION = {("KN", "float16"): "q4f16_0", ("NK", "float16"): "q4f16_1", ("NK", "float32"): "q4f32_1"}

isas = pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=describe)


def run(
    matmul: Matmul,
    isa,
    k: int,
    n: int,
    rows: tuple[int, int],
    rng: np.random.Generator,
    *,
    one_row: bool = False,
    call=None,
):
    """The kernel's result for ``x [*rows, k]`` and a weight ``[n, k]``, and that of numpy in double precision."""
    quantization = QUANTIZATIONS[QUANTIZATION[matmul.layout, matmul.dtype]]
    weight = torch.from_numpy(rng.standard_normal((n, k), np.float32) * 0.1)
    q_weight, q_scale = w4.quantize(weight, quantization)
    # With fp32 scales no weight is rounded, as in the kernels.
    dense = w4.dequantize(q_weight, q_scale.astype(np.float32), quantization, k)
    dense = np.asarray(dense).astype(np.float64)
    width = n // matmul.sections

    def tensor(*shape):
        return rng.standard_normal(shape, np.float32).astype(matmul.dtype)

    x = tensor(*rows, k)
    norm = tensor(k) if matmul.norm_eps is not None else None
    bias = tensor(n) if matmul.bias else None
    residual = tensor(*rows, width) if matmul.residual else None
    out = np.zeros((*rows, width), matmul.out_dtype)
    arguments = [a for a in (x, q_weight, q_scale, norm, bias, residual, out) if a is not None]
    (call or compiled(kernel(matmul, isa, 2, one_row=one_row)))(*arguments)

    want = x.astype(np.float64)
    if norm is not None:
        want = want / np.sqrt((want**2).mean(-1, keepdims=True) + matmul.norm_eps) * norm
    want = want @ dense.T
    if bias is not None:
        want = want + bias
    if matmul.gated:
        gate, up = np.split(want, 2, axis=-1)
        want = gate / (1 + np.exp(-gate)) * up
    if residual is not None:
        want = want + residual
    return out.astype(np.float64), want


def assert_close(got: np.ndarray, want: np.ndarray, isa, out_dtype: str) -> None:
    # Two terms have 16 bits, beside the largest of a group, and three 22; the rest is fp32.
    tolerance = 2e-4 if isa.whole and isa.terms == 2 else 2e-5
    tolerance += 1e-3 if out_dtype == "float16" else 0
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@isas
@pytest.mark.parametrize("layout", ["NK", "KN"])
def test_sums_of_one_row_and_of_many(isa, layout, rng):
    matmul = Matmul(layout, "float16", "float16", "float32")
    for rows, one_row in (((1, 1), True), ((1, 13), False), ((6, 1), False)):
        got, want = run(matmul, isa, 576, 80, rows, rng, one_row=one_row)
        assert_close(got, want, isa, "float32")


@isas
@pytest.mark.parametrize("one_row", [True, False], ids=["decode", "prefill"])
@pytest.mark.parametrize("layout", ["NK", "KN"])
@pytest.mark.parametrize(
    "around",
    [
        {"norm_eps": 1e-5, "gated": True, "bias": True},
        {"norm_eps": 1e-5, "bias": True, "residual": True},
    ],
    ids=lambda around: "-".join(around),
)
def test_with_what_surrounds_it(isa, layout, one_row, around, rng):
    matmul = Matmul(layout, "float16", "float16", "float16", **around)
    got, want = run(matmul, isa, 96, 96, (1, 1) if one_row else (1, 7), rng, one_row=one_row)
    assert_close(got, want, isa, "float16")


@pytest.fixture(scope="module", params=["NK", "KN"])
def kernels_of_all_shapes(request):
    """For each instruction set and both numbers of rows, one compiled kernel: a function of the shapes."""
    matmul = Matmul(request.param, "float16", "float16", "float32", norm_eps=1e-5)
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        # So that the head start is none, a part or all of matrices as small as these.
        patch.setattr("edge_transact.compiler.cpu.decode.HEAD_START_BYTES", 4096)
        for isa in INSTRUCTION_SETS:
            for one_row in (True, False):
                made[isa, one_row] = compiled(kernel(matmul, isa, 3, one_row=one_row))
    return matmul, made


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(k=st.integers(1, 700), n=st.integers(32, 200), rows=st.integers(1, 15), data=st.data())
def test_every_shape(kernels_of_all_shapes, k, n, rows, data):
    matmul, made = kernels_of_all_shapes
    isa, one_row = data.draw(st.sampled_from(sorted(made, key=lambda key: (describe(key[0]), key[1]))))
    rng = np.random.default_rng(k)
    shape = (1, 1) if one_row else (1, rows)
    got, want = run(matmul, isa, k, n, shape, rng, call=made[isa, one_row])
    assert_close(got, want, isa, "float32")


@isas
@pytest.mark.parametrize("one_row", [True, False], ids=["decode", "prefill"])
def test_activations_keep_16_bits_or_more(isa, one_row, rng):
    matmul = Matmul("NK", "float32", "float32", "float32")
    got, want = run(matmul, isa, 512, 64, (1, 1) if one_row else (1, 4), rng, one_row=one_row)
    bits = 14 if isa.whole and isa.terms == 2 else 20
    assert np.abs(got - want).max() <= 2.0**-bits * np.abs(want).max()


@pytest.mark.parametrize("isa", [isa for isa in INSTRUCTION_SETS if isa.whole], ids=describe)
@pytest.mark.parametrize("one_row", [True, False], ids=["decode", "prefill"])
def test_whole_numbers_neither_overflow_nor_drown_another_group(isa, one_row):
    """Weights of 8 and 0 with a group of the same activations and one of larger ones."""
    call = compiled(kernel(Matmul("KN", "float32", "float32", "float32"), isa, 2, one_row=one_row))
    rows = 1 if one_row else 7
    for size in (0.0, 1e-20, -3e4):
        x = np.full((1, rows, 64), size, np.float32)
        x[..., 32:] = 1e6
        weight = np.repeat(np.uint32([0xFFFFFFFF, 0x77777777]), 4 * 32).reshape(8, 32)
        scale, out = np.ones((2, 32), np.float32), np.zeros((1, rows, 32), np.float32)
        call(x, weight, scale, out)
        np.testing.assert_allclose(out, 32 * 8 * np.float32(size), rtol=1e-6)


@isas
@pytest.mark.parametrize("layout", ["NK", "KN"])
def test_a_chain_is_its_products_one_after_the_other(isa, layout, rng):
    """As between two attentions, with ragged widths; the first two results stay inside."""
    kind = Matmul(layout, "float16", "float16", "float16")
    added, normed = replace(kind, residual=True), replace(kind, norm_eps=1e-5)
    matmuls = (
        ChainedMatmul(added, returned=False),
        ChainedMatmul(replace(normed, gated=True), (("x", 0),), returned=False),
        ChainedMatmul(added, (("x", 1), ("residual", 0))),
        ChainedMatmul(normed, (("x", 2),)),
    )
    sizes = [(80, 96), (96, 2 * 72), (72, 96), (96, 70)]
    quantization = QUANTIZATIONS[QUANTIZATION[layout, "float16"]]
    x = rng.standard_normal((1, 1, 80), np.float32).astype(np.float16)
    hidden = rng.standard_normal((1, 1, 96), np.float32).astype(np.float16)
    arguments, results = [], []
    for chained, (k, n) in zip(matmuls, sizes, strict=True):
        weight = torch.from_numpy(rng.standard_normal((n, k), np.float32) * 0.1)
        operands = dict(zip(("weight", "scale"), w4.quantize(weight, quantization), strict=True))
        operands |= {"x": x, "residual": hidden, "norm": rng.standard_normal(k, np.float32).astype(np.float16)}
        arguments += [operands[name] for name in chained.arguments]
        operands |= {name: results[source] for name, source in chained.given}
        results.append(np.zeros((1, 1, n // chained.matmul.sections), np.float16))
        alone = compiled(kernel(chained.matmul, isa, 3, one_row=True))
        alone(*[operands[name] for name in chained.matmul.operands], results[-1])
    outs = [np.zeros_like(result) for result in results[2:]]
    compiled(chain(matmuls, [isa] * len(matmuls), 3))(*arguments, *outs)
    for out, want in zip(outs, results[2:], strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_array_equal(out, want)


def test_a_matrix_narrower_than_a_tile_is_left_to_others():
    isa = INSTRUCTION_SETS[-1]
    assert not supports(2 * isa.lanes - 1, isa, gated=False)
    assert not supports(isa.lanes - 1, isa, gated=True)


@pytest.mark.parametrize("features", [64, 41])
def test_embedding_rows(features, rng):
    quantization = QUANTIZATIONS["q4f16_0"]
    weight = torch.from_numpy(rng.standard_normal((50, features), np.float32))
    q_weight, q_scale = w4.quantize(weight, quantization, embedding=True)
    ids = np.array([3, 49, 0, 3], np.int32)
    out = np.zeros((4, features), np.float16)
    compiled(embed("float16"))(ids, q_weight, q_scale, out)
    want = np.asarray(w4.dequantize(q_weight, q_scale, quantization, features, embedding=True))[ids]
    np.testing.assert_array_equal(out, want.astype(np.float16))
