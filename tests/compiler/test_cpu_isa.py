"""Instruction sets are selected where a target has them, compile to their instructions, and compute the right lanes."""

import re

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T
from tvm.target import Target

from edge_transact.compiler.cpu import isa as isa_module
from edge_transact.compiler.cpu.decode.batch_nk import BatchNK
from edge_transact.compiler.cpu.decode.kn import DecodeKN
from edge_transact.compiler.cpu.isa import select
from edge_transact.compiler.cpu.isa.avx2 import Avx2, Avx2Words, Sse
from edge_transact.compiler.cpu.isa.avx512 import Avx512, Avx512Vnni
from edge_transact.compiler.cpu.isa.avxvnni import AvxVnni, AvxVnniWords
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.isa.neon import NeonDot, NeonI8mm
from edge_transact.compiler.cpu.kernels import kernel
from edge_transact.compiler.lowering import PIPELINE, PLAIN_LOOPS
from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.vector import kernel_body, load, store, tensor
from edge_transact.system.cpu import FLAGS
from tests.support.cpu_kernels import EMULATED, INSTRUCTION_SETS, compiled, runs_here
from tests.support.packed import W4F16


def target_of(architecture: str, mcpu: str, mattr: list[str]) -> Target:
    return Target(
        {"kind": "llvm", "mtriple": f"{architecture}-linux-gnu", "mcpu": mcpu, "mattr": mattr, "num-cores": 2}
    )


@pytest.mark.parametrize(
    ("architecture", "mcpu", "mattr", "expected", "digits", "lanes"),
    [
        ("x86_64", "znver4", [], Avx512Vnni, 3, 16),
        ("x86_64", "sapphirerapids", [], Avx512Vnni, 3, 16),
        ("x86_64", "znver4", ["-avx512vnni"], Avx512, 1, 16),
        ("x86_64", "skylake-avx512", [], Avx512, 1, 16),
        ("x86_64", "alderlake", [], AvxVnni, 3, 8),
        ("x86_64", "sierraforest", [], AvxVnni, 3, 8),
        ("x86_64", "alderlake", ["-avxvnni"], Avx2, 3, 8),
        ("x86_64", "znver3", [], Avx2, 3, 8),
        ("x86_64", "haswell", [], Avx2, 3, 8),
        ("x86_64", "ivybridge", [], Sse, 3, 4),
        ("x86_64", "x86-64", [], Fp32, 1, 8),
        ("aarch64", "cortex-a76", [], NeonDot, 3, 4),
        ("aarch64", "generic", ["+neon", "+dotprod"], NeonDot, 3, 4),
        ("aarch64", "cortex-a710", [], NeonI8mm, 3, 4),
        ("aarch64", "neoverse-v1", ["-i8mm"], NeonDot, 3, 4),
        ("aarch64", "cortex-a72", [], Fp32, 1, 4),
    ],
)
def test_a_target_gets_the_best_instruction_set_that_it_has(architecture, mcpu, mattr, expected, digits, lanes):
    isa = select(target_of(architecture, mcpu, mattr), 3, "one")
    assert (type(isa), isa.digits, isa.lanes) == (expected, digits, lanes)
    assert set(isa.features) <= set(FLAGS), "a library must be able to say what it needs"


@pytest.mark.parametrize(
    ("digits", "rows", "expected"),
    [(2, "batch", Avx2Words), (2, "any", Avx2Words), (3, "batch", Avx2), (3, "any", Fp32)],
)
def test_many_rows_with_avx2_multiply_words_bytes_or_fp32(digits, rows, expected):
    """Whichever is faster, but a batch's activations have as many bits as those of one row."""
    assert type(select(target_of("x86_64", "znver3", []), digits, rows)) is expected


@pytest.mark.parametrize(
    ("mcpu", "digits", "kn", "nk"),
    [
        ("icelake-server", 2, 2, 2),
        ("icelake-server", 3, 2, 2),
        ("sapphirerapids", 2, 2, 2),
        ("znver4", 2, 1, 1),
        ("znver5", 2, 2, 1),
        ("alderlake", 2, 2, 2),
        ("alderlake", 3, 1, 1),
    ],
)
def test_sequences_share_what_the_cpu_would_load_too_slowly(mcpu, digits, kn, nk):
    isa = select(target_of("x86_64", mcpu, []), digits, "batch")
    assert (DecodeKN.batch_vectors(isa), BatchNK.batch_vectors(isa)) == (kn, nk)


def assembly_of(matmul: Matmul, target: Target, rows: Rows) -> str:
    function = kernel(matmul, select(target, 2, rows), 2, rows=rows).with_attr("global_symbol", "kernel")
    module = tvm.compile(tvm.IRModule({"kernel": function}), target=target, tir_pipeline=PIPELINE).mod
    return module.inspect_source("asm")


@pytest.mark.parametrize("rows", ["one", "batch", "any"], ids=["decode", "batch", "prefill"])
@pytest.mark.parametrize(
    ("architecture", "mcpu", "instructions"),
    [
        ("x86_64", "ivybridge", ["vmulps.*ymm"]),
        ("x86_64", "haswell", ["vpmaddwd.*ymm"]),
        ("x86_64", "alderlake", [r"\{vex\}\s+vpdp(busd|wssd).*ymm"]),
        ("x86_64", "skylake-avx512", [r"vperm(t2)?ps\s.*zmm", "vfmadd"]),
        ("x86_64", "cascadelake", ["vpdpbusd.*zmm"]),
        ("aarch64", "cortex-a72", ["fmla"]),
        ("aarch64", "cortex-a76", ["sdot"]),
        ("aarch64", "cortex-a710", ["s(dot|mmla)"]),
    ],
)
def test_kernels_compile_to_the_instructions(architecture, mcpu, instructions, rows):
    """On every machine, whether it can run them or not."""
    assembly = assembly_of(Matmul("KN", "float16", W4F16, "float16"), target_of(architecture, mcpu, []), rows)
    assert [pattern for pattern in instructions if not re.search(pattern, assembly)] == []
    assert ("smmla" in assembly) == (mcpu == "cortex-a710" and rows == "any")
    assert ("vpdpwssd" in assembly) == (mcpu == "alderlake" and rows == "batch")


@pytest.mark.parametrize("rows", ["one", "batch"])
def test_spilled_vectors_of_decode_are_aligned(rows):
    """Or some processes are much slower than others, those whose stack begins between two cache lines."""
    matmul = Matmul("NK", "float16", W4F16, "float16", gated=True)
    assembly = assembly_of(matmul, target_of("x86_64", "haswell", []), rows)
    loaded = re.findall(r"\t(\S+)\t-?\d*\(%rsp\), %ymm", assembly)
    aligned = [name for name in loaded if name in ("vmovaps", "vmovdqa")]
    unaligned = [name for name in loaded if name in ("vmovups", "vmovdqu")]
    assert aligned and not unaligned


def test_every_instruction_set_is_run_by_the_tests():
    run = {type(isa) for isa in INSTRUCTION_SETS}
    assert {isa for isa in isa_module.INSTRUCTION_SETS if isa in run or EMULATED[isa] in run} == set(
        isa_module.INSTRUCTION_SETS
    )


def lane_by_lane(operation, *arrays: np.ndarray) -> np.ndarray:
    """What an operation on vectors computes from vectors in memory."""
    lanes = len(arrays[0])
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        buffers = [tensor(f"x{i}", (lanes,), "int32") for i in range(len(arrays) + 1)]
        store(buffers[-1], operation(*(load(buffer, [0], lanes) for buffer in buffers[:-1])), [0])
    out = np.zeros(lanes, np.int32)
    compiled(ib.get())(*arrays, out)
    return out


def real_or_emulated(*classes):
    """The emulated instructions, and the real ones where the machine has them."""
    return [isa for real in classes for isa in (EMULATED[real], *([real] if runs_here(real) else []))]


@pytest.mark.parametrize("isa", real_or_emulated(Avx512Vnni, AvxVnni, NeonDot), ids=lambda isa: isa.__name__)
def test_dot_products_of_bytes(isa, rng):
    lanes = isa.lanes
    # sdot's weights are signed; nibbles are not negative either way.
    weights = rng.integers(0, 16 if issubclass(isa, NeonDot) else 256, (lanes, 4), np.uint8)
    digits = rng.integers(-128, 128, (lanes, 4), np.int8)
    weights[0], digits[0], digits[1] = weights.max(), -128, 127
    start = rng.integers(-(1 << 30), 1 << 30, lanes, np.int32)
    got = lane_by_lane(isa(2).multiply_add, start, weights.view(np.int32)[:, 0], digits.view(np.int32)[:, 0])
    np.testing.assert_array_equal(got, start + (weights.astype(np.int32) * digits).sum(1))


@pytest.mark.parametrize("isa", real_or_emulated(NeonI8mm), ids=lambda isa: isa.__name__)
def test_products_of_matrices_of_bytes(isa, rng):
    weights = rng.integers(0, 16, (2, 8), np.int8)  # of two columns
    digits = rng.integers(-128, 128, (2, 8), np.int8)  # of two rows
    start = rng.integers(-(1 << 30), 1 << 30, (2, 2), np.int32)
    flat = (array.view(np.int32).ravel() for array in (start, weights, digits))
    got = lane_by_lane(isa(2).multiply_add_block, *flat).reshape(2, 2)
    np.testing.assert_array_equal(got, start + digits.astype(np.int32) @ weights.T)


@pytest.mark.parametrize("isa", real_or_emulated(Avx512), ids=lambda isa: isa.__name__)
def test_weights_looked_up_in_a_register(isa, rng):
    words = rng.integers(0, 1 << 32, isa.lanes, np.uint32)
    words[:16] ^= (words[:16] ^ np.arange(16, dtype=np.uint32)) & 15
    for step in range(isa.steps):

        def unpack(vector, step=step):
            return isa().unpack(T.reinterpret(f"uint32x{isa.lanes}", vector), step)

        got = lane_by_lane(unpack, words.view(np.int32)).view(np.float32)
        np.testing.assert_array_equal(got, (words >> np.uint32(4 * step) & 15).astype(np.float32) - W4F16.zero_point)


@pytest.mark.parametrize("isa", real_or_emulated(Avx2), ids=lambda isa: isa.__name__)
@pytest.mark.parametrize("digits", [2, 3])
def test_products_of_a_group_fit_in_sums_of_16_bits(isa, digits, rng):
    """The largest weights and digits, in every one of a group's four words."""
    words = rng.integers(0, 1 << 32, (4, isa.lanes), np.uint32)
    values = rng.integers(-128, 128, (4, isa.steps, digits, isa.lanes, 4), np.int8)
    words[:, 0], values[..., 0, :], words[:, 1], values[..., 1, :] = 0xFFFFFFFF, -128, 0xFFFFFFFF, 127
    if digits == 3:  # the highest digit of 22 bits
        values[:, :, 0] = np.clip(values[:, :, 0], -32, 31)
    nibbles = (words.view(np.uint8).reshape(4, 1, isa.lanes, 4) >> np.array([0, 4], np.uint8).reshape(1, 2, 1, 1)) & 15
    place = 256 ** np.arange(digits)[::-1].reshape(1, 1, digits, 1, 1)
    want = (nibbles[:, :, None].astype(np.int64) * values * place).sum((0, 1, 2, 4))

    def dot(*vectors):
        packed = iter(vectors[4:])
        activations = [[[next(packed) for _ in range(digits)] for _ in range(isa.steps)] for _ in range(4)]
        loaded = [T.reinterpret(f"uint32x{isa.lanes}", vector) for vector in vectors[:4]]
        product = isa(digits).dot(T.broadcast(T.int32(0), isa.lanes), loaded, activations)
        return T.reinterpret(f"int32x{isa.lanes}", product)

    flat = values.view(np.int32)[..., 0].reshape(-1, isa.lanes)
    got = lane_by_lane(dot, *words.view(np.int32), *flat).view(np.float32)
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("isa", real_or_emulated(Avx512Vnni, AvxVnni, Avx2, NeonDot), ids=lambda isa: isa.__name__)
@pytest.mark.parametrize("digits", [2, 3])
def test_sums_of_four_columns(isa, digits, rng):
    """Of each group, one column after the other; with the largest weights and digits in the first two groups."""
    words = rng.integers(0, 1 << 32, (4, isa.lanes), np.uint32)
    values = rng.integers(-128, 128, (isa.steps, digits, isa.lanes, 4), np.int8)
    words[:, :8], values[..., :4, :], values[..., 4:8, :] = 0xFFFFFFFF, -128, 127
    if digits == 3:  # the highest digit of 22 bits
        values[:, 0] = np.clip(values[:, 0], -32, 31)
    nibbles = (words.view(np.uint8).reshape(4, 1, 1, -1, 4) >> np.array([0, 4], np.uint8).reshape(1, 2, 1, 1, 1)) & 15
    place = 256 ** np.arange(digits)[::-1].reshape(1, 1, digits, 1, 1)
    of_words = (nibbles.astype(np.int64) * values * place).sum((1, 2, 4))
    want = of_words.reshape(4, -1, 4).sum(2).T.ravel()

    def sum_columns(*vectors):
        packed = iter(vectors[4:])
        activations = [[next(packed) for _ in range(digits)] for _ in range(isa.steps)]
        columns = []
        for vector in vectors[:4]:
            accumulators = isa(digits).begin(T.broadcast(T.int32(0), isa.lanes))
            for step in range(isa.steps):
                weights = isa(digits).unpack(T.reinterpret(f"uint32x{isa.lanes}", vector), step)
                accumulators = isa(digits).add(accumulators, weights, activations[step], step)
            columns.append(accumulators)
        return isa(digits).sum_quads(columns)

    got = lane_by_lane(sum_columns, *words.view(np.int32), *values.view(np.int32)[..., 0].reshape(-1, isa.lanes))
    np.testing.assert_array_equal(got, want.astype(np.int32))


@pytest.mark.parametrize("isa", real_or_emulated(Avx2Words, AvxVnniWords), ids=lambda isa: isa.__name__)
def test_products_of_words(isa, rng):
    weights = rng.integers(0, 16, (isa.lanes, 2), np.int16)
    activations = rng.integers(-32768, 32767, (isa.lanes, 2), np.int16)
    start = rng.integers(-(1 << 30), 1 << 30, isa.lanes, np.int32)
    got = lane_by_lane(isa().multiply_add, start, weights.view(np.int32)[:, 0], activations.view(np.int32)[:, 0])
    np.testing.assert_array_equal(got, start + (weights.astype(np.int32) * activations).sum(1))
