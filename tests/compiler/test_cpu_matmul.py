"""The CPU's matmuls with packed weights are matmuls with the dequantized weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.isa.avx512 import Avx512Vnni
from edge_transact.compiler.cpu.kernels import chain, embed, kernel, supports
from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from tests.support.cpu_kernels import (
    INSTRUCTION_SETS,
    QUANTIZATION,
    compiled,
    compiled_matmul,
    describe,
    matmul_case,
)
from tests.support.packed import W4F16, W4F32, packed

NORM_EPS = 1e-5

FP16_SETS = [isa for isa in INSTRUCTION_SETS if isa.digits < 3]
"""What fp16 activations are multiplied with; three digits are for fp32."""

LAYOUTS = ["KN", "NK", "NK", "KN", "NK", "KN", "NK", "KN", "KN", "NK", "KN", "NK"]
ONE_LAYOUT_EACH = list(zip(FP16_SETS, LAYOUTS, strict=True))

IN_CHAINS = {Avx512Vnni, type(FP16_SETS[-1])}
"""AVX-512's bytes and i8mm."""

EPILOGUES = [
    pytest.param(isa, layout, marks=[] if (isa, layout) in ONE_LAYOUT_EACH else pytest.mark.soak)
    for isa in FP16_SETS
    for layout in ("NK", "KN")
]
"""What surrounds a matmul is the same code for both layouts."""


def describe_case(value: InstructionSet | str | int) -> str:
    return describe(value) if isinstance(value, InstructionSet) else str(value)


fp16_isas = pytest.mark.parametrize("isa", FP16_SETS, ids=describe)
isas = pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=describe)
layouts = pytest.mark.parametrize("layout", ["NK", "KN"])
all_rows = pytest.mark.parametrize("rows", ["one", "batch", "any"], ids=["decode", "batch", "prefill"])


def leading(rows: Rows, count: int) -> tuple[int, int]:
    """Batch and tokens of activations of `count` rows, or of one."""
    return (1, 1 if rows == "one" else count)


@pytest.fixture(scope="module", autouse=True)
def for_small_matrices():
    """Gives matrices as small as these one strip or several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_transact.compiler.cpu.decode.kn.STRIP_BYTES", 128)
        yield


def run(
    matmul: Matmul,
    isa: InstructionSet,
    k: int,
    n: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
    rows: Rows,
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result for ``x [*shape, k]`` and a weight ``[n, k]``, and that of numpy in double precision."""
    arguments, want = matmul_case(matmul, k, n, shape, rng)
    compiled_matmul(matmul, isa, 3, rows)(*arguments)
    return arguments[-1].astype(np.float64), want


def assert_close(got: np.ndarray, want: np.ndarray, isa: InstructionSet, out_dtype: str) -> None:
    # Quantized activations keep 16 bits of the largest of a group with two digits, and 22 with three; the rest is fp32.
    tolerance = 2e-4 if isa.quantizer and isa.quantizer.digits == 2 else 2e-5
    tolerance += 1e-3 if out_dtype == "float16" else 0
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def of_any_shape(layout: str) -> Matmul:
    """A kernel that many shapes share; RMSNorm has the same code for both layouts."""
    return Matmul(layout, "float16", W4F16, "float32", norm_eps=NORM_EPS if layout == "NK" else None)


@pytest.mark.parametrize(("isa", "layout"), ONE_LAYOUT_EACH, ids=describe_case)
def test_sums_of_one_row_and_of_many(isa, layout, rng):
    for shape, rows in (((1, 1), "one"), ((1, 13), "any"), ((6, 1), "any"), ((1, 6), "batch"), ((1, 1), "batch")):
        got, want = run(of_any_shape(layout), isa, 576, 80, shape, rng, rows)
        assert_close(got, want, isa, "float32")


@pytest.mark.parametrize(("isa", "layout"), EPILOGUES, ids=describe_case)
@all_rows
def test_with_everything_that_surrounds_a_matmul(isa, layout, rows, rng):
    matmul = Matmul(layout, "float16", W4F16, "float16", NORM_EPS, bias=True, gated=True, residual=True)
    if rows == "batch":
        matmul = replace(matmul, activation="gelu_pytorch_tanh")
    got, want = run(matmul, isa, 96, 96, leading(rows, 7), rng, rows)
    assert_close(got, want, isa, "float16")


@all_rows
@layouts
def test_bias_and_residual_without_a_gate(layout, rows, rng):
    isa = INSTRUCTION_SETS[0]
    matmul = Matmul(layout, "float16", W4F16, "float16", NORM_EPS, bias=True, residual=True)
    got, want = run(matmul, isa, 96, 96, leading(rows, 7), rng, rows)
    assert_close(got, want, isa, "float16")


@settings(max_examples=100)
@given(
    layout=st.sampled_from(["NK", "KN"]),
    isa=st.sampled_from(FP16_SETS),
    rows=st.sampled_from(["one", "batch", "any"]),
    k=st.integers(1, 700),
    n=st.integers(32, 200),
    count=st.integers(1, 15),
)
def test_every_shape(layout, isa, rows, k, n, count):
    rng = np.random.default_rng(k)
    got, want = run(of_any_shape(layout), isa, k, n, leading(rows, count), rng, rows)
    assert_close(got, want, isa, "float32")


@fp16_isas
def test_threads_without_a_whole_group(isa, rng):
    """Their sums begin at zero, whatever the memory held before: here, the sums of a larger matrix."""
    for k in (576, 64, 32, 7):
        got, want = run(of_any_shape("KN"), isa, k, 200, (1, 1), rng, "one")
        assert_close(got, want, isa, "float32")


@isas
@all_rows
def test_activations_keep_16_bits_or_more(isa, rows, rng):
    matmul = Matmul("NK", "float32", W4F32, "float32")
    got, want = run(matmul, isa, 530, 64, leading(rows, 4), rng, rows)
    bits = 14 if isa.quantizer and isa.quantizer.digits == 2 else 20
    assert np.abs(got - want).max() <= 2.0**-bits * np.abs(want).max()


@pytest.mark.parametrize("isa", [isa for isa in INSTRUCTION_SETS if isa.quantizer], ids=describe)
@all_rows
def test_quantized_activations_neither_overflow_nor_drown_another_group(isa, rows):
    """Weights of 8 for a group of equal activations, and of 0 for a group of larger ones."""
    call = compiled_matmul(Matmul("NK", "float32", W4F32, "float32"), isa, 3, rows)
    shape = leading(rows, 7)
    for size in (0.0, 1e-20, -3e4):
        x = np.full((*shape, 64), size, np.float32)
        x[..., 32:] = 1e6
        weight = np.tile(np.uint32([0xFFFFFFFF] * 4 + [0x77777777] * 4), (32, 1))
        scale, out = np.ones((32, 2), np.float32), np.zeros((*shape, 32), np.float32)
        call(x, weight, scale, out)
        np.testing.assert_allclose(out, 32 * 8 * np.float32(size), rtol=1e-6)


@isas
@all_rows
def test_what_overflowed_is_seen(isa, rows):
    call = compiled_matmul(Matmul("NK", "float32", W4F32, "float32"), isa, 3, rows)
    x = np.ones((*leading(rows, 7), 64), np.float32)
    x[..., 40] = np.nan
    out = np.zeros((*x.shape[:-1], 32), np.float32)
    call(x, np.full((32, 8), 0x99999999, np.uint32), np.ones((32, 2), np.float32), out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("isa", "layout", "threads", "count"),
    [
        # What a chain adds to its matmuls is the same for all sets: one of each kind of activations, and all in `soak`.
        *(
            pytest.param(isa, layout, 3, 1, marks=[] if type(isa) in IN_CHAINS else pytest.mark.soak)
            for isa, layout in ONE_LAYOUT_EACH
        ),
        # As is how rows and columns are divided.
        (*ONE_LAYOUT_EACH[1], 1, 1),
        pytest.param(*ONE_LAYOUT_EACH[1], 3, 5, marks=pytest.mark.soak),
        pytest.param(*ONE_LAYOUT_EACH[0], 1, 2, marks=pytest.mark.soak),
    ],
    ids=describe_case,
)
def test_a_chain_is_its_matmuls_one_after_the_other(isa, layout, threads, count, rng):
    """The matmuls between two attentions, with ragged widths; the first two results stay inside."""
    rows: Rows = "one" if count == 1 else "batch"
    kind = Matmul(layout, "float16", W4F16, "float16")
    added, normed = replace(kind, residual=True), replace(kind, norm_eps=1e-5)
    matmuls = (
        ChainedMatmul(added, returned=False),
        ChainedMatmul(replace(normed, gated=True), (("x", 0),), returned=False),
        ChainedMatmul(added, (("x", 1), ("residual", 0))),
        ChainedMatmul(normed, (("x", 2),)),
    )
    sizes = [(80, 96), (96, 2 * 72), (72, 96), (96, 70)]
    quantization = QUANTIZATIONS[QUANTIZATION[layout, "float16"]]
    x = rng.standard_normal((1, count, 80), np.float32).astype(np.float16)
    hidden = rng.standard_normal((1, count, 96), np.float32).astype(np.float16)
    arguments, results = [], []
    for chained, (k, n) in zip(matmuls, sizes, strict=True):
        weight = torch.from_numpy(rng.standard_normal((n, k), np.float32) * 0.1)
        operands = dict(zip(("weight", "scale"), packed(weight, quantization), strict=True))
        operands |= {"x": x, "residual": hidden, "norm": rng.standard_normal(k, np.float32).astype(np.float16)}
        arguments += [operands[name] for name in chained.arguments]
        operands |= {name: results[source] for name, source in chained.given}
        results.append(np.zeros((1, count, n // chained.matmul.sections), np.float16))
        alone = compiled_matmul(chained.matmul, isa, threads, rows)
        alone(*[operands[name] for name in chained.matmul.operands], results[-1])
    outs = [np.zeros_like(result) for result in results[2:]]
    compiled(chain(matmuls, [isa] * len(matmuls), threads, rows=rows))(*arguments, *outs)
    for out, want in zip(outs, results[2:], strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_array_equal(out, want)


@all_rows
@layouts
def test_accumulators_can_be_registers(layout, rows):
    """TVM asks the runtime for buffers of scope ``local``, and never for small ones of the default scope."""
    isa = max(INSTRUCTION_SETS, key=lambda isa: isa.lanes)
    assert "alloc_local" not in kernel(of_any_shape(layout), isa, 3, rows=rows).script()


@isas
@layouts
def test_accumulators_of_a_batch_are_on_the_stack(isa, layout):
    """TVM asks the runtime for buffers of 1,024 bytes or more, and LLVM writes back all that a kernel leaves there."""
    sizes = []

    def visit(node):
        if isinstance(node, tirx.AllocBuffer) and all(isinstance(size, tirx.IntImm) for size in node.buffer.shape):
            sizes.append(math.prod(map(int, node.buffer.shape)) * node.buffer.dtype.itemsize)

    tirx.stmt_functor.post_order_visit(kernel(of_any_shape(layout), isa, 2, rows="batch").body, visit)
    assert sizes and max(sizes) < 1024


def test_each_cache_line_of_a_block_is_prefetched():
    """A block has four words and half a line of scales per vector; the stack's alignment is a prefetch, too."""

    def prefetches(vectors):
        isa = Avx512Vnni(2, batch_vectors=vectors)
        return kernel(of_any_shape("KN"), isa, 2, rows="batch").script().count("llvm.prefetch") - 1

    assert prefetches(2) / prefetches(1) == (2 * 4 + 1) / (4 + 1)


def test_a_matrix_narrower_than_a_tile_is_left_to_other_kernels():
    isa = max(INSTRUCTION_SETS, key=lambda isa: isa.lanes * isa.batch_vectors)
    for rows, gated, vectors in (("any", False, 2), ("any", True, 1), ("one", True, 1), ("batch", True, 2)):
        assert supports(vectors * isa.lanes, isa, rows, gated=gated)
        assert not supports(vectors * isa.lanes - 1, isa, rows, gated=gated)


@pytest.mark.parametrize("features", [64, 41])
def test_embedding_rows(features, rng):
    quantization = QUANTIZATIONS["q4f16_0"]
    weight = torch.from_numpy(rng.standard_normal((50, features), np.float32))
    q_weight, q_scale = packed(weight, quantization, embedding=True)
    ids = np.array([3, 49, 0, 3], np.int32)
    out = np.zeros((4, features), np.float16)
    compiled(embed(W4F16))(ids, q_weight, q_scale, out)
    want = np.asarray(w4.dequantize(q_weight, q_scale, quantization, features, embedding=True))[ids]
    np.testing.assert_array_equal(out, want.astype(np.float16))
