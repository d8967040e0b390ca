"""Shared by the tests of the CPU kernels: instruction sets that run on every machine, and compiled kernels."""

import functools
from collections.abc import Callable

import numpy as np
import torch
import tvm
from tvm.script import tirx as T
from tvm.target import codegen
from tvm.tirx import Expr

from edge_transact.compiler.cpu import kernels
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.isa.avx2 import Avx2, Avx2Words, Sse, SseWords
from edge_transact.compiler.cpu.isa.avx512 import Avx512, Avx512Vnni
from edge_transact.compiler.cpu.isa.avxvnni import AvxVnni, AvxVnniWords
from edge_transact.compiler.cpu.isa.byte_products import X86Bytes
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.isa.neon import NeonDot, NeonI8mm
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.targets import get_target
from edge_transact.compiler.vector import cast, lanes_of, shuffle, splat
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from tests.support.packed import packed, product

HOST = get_target("host").tvm_target()


class EmulatedAvx512(Avx512):
    """vpermps as arithmetic: the table's entries are consecutive integers."""

    def look_up(self, table: Expr, index: Expr) -> Expr:
        nibbles = T.bitwise_and(index, splat(T.int32(15), self.lanes))
        return shuffle([table], [0] * self.lanes) + cast("float32", nibbles)


class _EmulatedX86Bytes(X86Bytes):
    """vpmaddwd as multiplications of lanes, and vpackssdw as conversions."""

    def multiply_words(self, first: Expr, second: Expr) -> Expr:
        return _multiply_words(first, second)

    def narrow(self, first: Expr, second: Expr) -> Expr:
        lanes = lanes_of(first)
        order = [v * lanes + four + i for four in range(0, lanes, 4) for v in (0, 1) for i in range(4)]
        return shuffle([cast("int16", first), cast("int16", second)], order)


class _EmulatedVnni(_EmulatedX86Bytes):
    """vpdpbusd as multiplications of int32 lanes, too."""

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        return _dot_bytes(accumulator, weights, activations, unsigned_weights=True)


class EmulatedAvx512Vnni(_EmulatedVnni, Avx512Vnni): ...


class EmulatedAvxVnni(_EmulatedVnni, AvxVnni): ...


class EmulatedAvx2(_EmulatedX86Bytes, Avx2):
    """vpmaddubsw as multiplications of lanes."""

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        lanes = 2 * self.lanes
        nibbles, digits = T.reinterpret(f"int16x{lanes}", weights), T.reinterpret(f"int16x{lanes}", activations)
        byte, eight = splat(T.int16(255), lanes), splat(T.int16(8), lanes)
        low = T.bitwise_and(nibbles, byte) * T.shift_right(T.shift_left(digits, eight), eight)
        return low + T.bitwise_and(T.shift_right(nibbles, eight), byte) * T.shift_right(digits, eight)


class EmulatedAvx2Words(Avx2Words):
    """vpmaddwd as multiplications of int32 lanes."""

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        return _multiply_words(weights, activations)


class EmulatedSse(EmulatedAvx2, Sse):
    """The same in 128 bits."""


class EmulatedSseWords(EmulatedAvx2Words, SseWords):
    """The same in 128 bits."""


class EmulatedAvxVnniWords(AvxVnniWords):
    """vpdpwssd as multiplications of int32 lanes."""

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        first, second = T.reinterpret("int16x16", weights), T.reinterpret("int16x16", activations)
        return accumulator + _multiply_words(first, second)


class EmulatedNeonDot(NeonDot):
    """sdot as multiplications of int32 lanes."""

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        return _dot_bytes(accumulator, weights, activations, unsigned_weights=False)


class EmulatedNeonI8mm(EmulatedNeonDot, NeonI8mm):
    """smmla as multiplications of int32 lanes."""

    def multiply_add_block(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        for half in range(2):
            columns = shuffle([weights], [half, 2 + half, half, 2 + half])
            rows = shuffle([activations], [half, half, 2 + half, 2 + half])
            accumulator = _dot_bytes(accumulator, columns, rows, unsigned_weights=False)
        return accumulator


def _dot_bytes(accumulator: Expr, weights: Expr, activations: Expr, *, unsigned_weights: bool) -> Expr:
    lanes = lanes_of(accumulator)

    def signed(vector: Expr, byte: int) -> Expr:
        return T.shift_right(T.shift_left(vector, splat(T.int32(24 - 8 * byte), lanes)), splat(T.int32(24), lanes))

    def unsigned(vector: Expr, byte: int) -> Expr:
        return T.bitwise_and(T.shift_right(vector, splat(T.int32(8 * byte), lanes)), splat(T.int32(255), lanes))

    for byte in range(4):
        weight = unsigned(weights, byte) if unsigned_weights else signed(weights, byte)
        accumulator = accumulator + weight * signed(activations, byte)
    return accumulator


def _multiply_words(first: Expr, second: Expr) -> Expr:
    products, lanes = cast("int32", first) * cast("int32", second), lanes_of(first)
    return shuffle([products], range(0, lanes, 2)) + shuffle([products], range(1, lanes, 2))


EMULATED: dict[type[InstructionSet], type[InstructionSet]] = {
    Avx512: EmulatedAvx512, Avx512Vnni: EmulatedAvx512Vnni, AvxVnni: EmulatedAvxVnni, Avx2: EmulatedAvx2,
    AvxVnniWords: EmulatedAvxVnniWords, Avx2Words: EmulatedAvx2Words, NeonDot: EmulatedNeonDot,
    NeonI8mm: EmulatedNeonI8mm, Sse: EmulatedSse, SseWords: EmulatedSseWords,
}  # fmt: skip
"""The instruction sets with plain vector code instead of intrinsics, which LLVM splits into what the machine has."""


def runs_here(isa: type[InstructionSet]) -> bool:
    """Whether this machine has the instructions."""
    return codegen.llvm_cpu_has_features(list(isa.features), HOST)


def _runnable(isa: type[InstructionSet], *args: int) -> InstructionSet:
    return isa(*args) if runs_here(isa) else EMULATED[isa](*args)


INSTRUCTION_SETS = [
    *(Fp32(4), Fp32(8), _runnable(Avx512), _runnable(AvxVnniWords), _runnable(Avx2Words)),
    *(_runnable(SseWords), _runnable(Sse, 2)),
    *(_runnable(isa, digits) for isa in (Avx512Vnni, AvxVnni, Avx2, NeonDot, NeonI8mm) for digits in (2, 3)),
]
"""All of them, those that this machine lacks emulated."""


def describe(isa: InstructionSet) -> str:
    return f"{isa.name}x{isa.lanes}-{isa.digits}"


@functools.cache
def compiled_matmul(kind: Matmul, isa: InstructionSet, threads: int, rows: Rows) -> Callable:
    """A matmul's kernel on this machine, compiled once."""
    return compiled(kernels.kernel(kind, isa, threads, rows=rows))


def compiled(function: tvm.tirx.PrimFunc) -> Callable:
    """The function on this machine, called with numpy arrays, which are changed in place, and numbers."""
    kernel = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    module = tvm.compile(kernel, target=HOST, tir_pipeline=PIPELINE)

    def call(*arguments):
        tensors = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
        module["kernel"](*tensors)
        for argument, tensor in zip(arguments, tensors, strict=True):
            if isinstance(argument, np.ndarray):
                argument[...] = tensor.numpy()

    return call


QUANTIZATION = {("KN", "float16"): "q4f16_0", ("NK", "float16"): "q4f16_1", ("NK", "float32"): "q4f32_1"}
"""The quantization of a layout and dtype."""


def matmul_case(matmul: Matmul, k: int, n: int, shape: tuple[int, int], rng: np.random.Generator):
    """A kernel's arguments for ``x [*shape, k]`` and a weight ``[n, k]``, and numpy's result in double precision."""
    quantization = QUANTIZATIONS[QUANTIZATION[matmul.layout, matmul.dtype]]
    weight = torch.from_numpy(rng.standard_normal((n, k), np.float32) * 0.1)
    q_weight, q_scale = packed(weight, quantization)
    # With fp32 scales no weight is rounded, as in the kernels.
    dense = w4.dequantize(q_weight, q_scale.astype(np.float32), quantization, k)
    dense = np.asarray(dense).astype(np.float64)
    width = n // matmul.sections

    def tensor(*shape):
        return rng.standard_normal(shape, np.float32).astype(matmul.dtype)

    x = tensor(*shape, k)
    norm = tensor(k) if matmul.norm_eps is not None else None
    bias = tensor(n) if matmul.bias else None
    residual = tensor(*shape, width) if matmul.residual else None
    out = np.zeros((*shape, width), matmul.out_dtype)
    arguments = [a for a in (x, q_weight, q_scale, norm, bias, residual, out) if a is not None]

    want = product(matmul, x, dense.T, norm, bias, residual)
    return arguments, want
