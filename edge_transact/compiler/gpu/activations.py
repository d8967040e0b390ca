"""The activations of one row for the threads of a decode kernel."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.gpu.buffers import MatmulBuffers
from edge_transact.compiler.gpu.source import C_NAMES, blocks, call, load_vector, store_vector, wait
from edge_transact.compiler.vector import cast, splat
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD

SUMS = 16
"""The sums of a norm that are left after the first of two steps of adding up all threads' sums."""


class Activations:
    """Reads a row's features from global memory; if `ragged`, K isn't a multiple of 32, and the rest is zeros."""

    def __init__(self, buffers: MatmulBuffers, *, ragged: bool) -> None:
        self.buffers, self.ragged = buffers, ragged

    def prepare(self, thread: Expr) -> None:
        """Emit the code before the first `load`; `thread` is the thread's number in its work group."""

    def load(self, k: Expr) -> Expr:
        """Features `k` to ``k + 7``; `k` is a multiple of 8."""
        a = self.buffers
        if not self.ragged:
            return load_vector(a.x, a.feature(0, k), VALUES_PER_WORD)
        # The last word again, times 0.
        x = load_vector(a.x, a.feature(0, T.min(k, a.features - VALUES_PER_WORD)), VALUES_PER_WORD)
        factor = cast(a.matmul.dtype, T.Select(k < a.features, T.float32(1), T.float32(0)))
        return T.bind(x * splat(factor, VALUES_PER_WORD))


class NormalizedActivations(Activations):
    """Applies RMSNorm to a row in every work group, which costs less than a launch, and keeps it in local memory.

    Args:
        buffers: The kernel's.
        features: K.
        threads: Threads of a work group, a multiple of `SUMS`.
        scratch: Local memory for at least ``threads + SUMS`` sums.
    """

    def __init__(self, buffers: MatmulBuffers, features: int, threads: int, scratch: Buffer) -> None:
        super().__init__(buffers, ragged=False)
        self.threads = threads
        # The last group is filled up with zeros.
        padded = -(-features // GROUP_SIZE) * GROUP_SIZE
        self.normalized = T.alloc_buffer((padded,), buffers.matmul.dtype, scope="shared")
        self.partial = scratch

    def prepare(self, thread: Expr) -> None:
        """Emit the norm."""
        a, partial = self.buffers, self.partial
        assert a.norm is not None
        name, lanes = C_NAMES[a.matmul.dtype], VALUES_PER_WORD
        turns = blocks(self.normalized.shape[0] // lanes, self.threads)
        total = T.alloc_buffer((1,), "float32", scope="local")
        T.buffer_store(total, T.float32(0), [0])
        with T.serial(0, turns) as turn:
            k = T.bind((turn * self.threads + thread) * lanes)
            with T.If(k < a.features), T.Then():
                values = load_vector(a.x, [0, 0, k], lanes)
                squares = call("float32", f"dot_{name}", values, cast("float32", values), total[0])
                T.buffer_store(total, squares, [0])
        T.buffer_store(partial, total[0], [thread])
        wait()
        with T.If(thread < SUMS), T.Then():
            each = self.threads // SUMS
            T.buffer_store(partial, _sum(partial, thread * each, each), [self.threads + thread])
        wait()
        mean = _sum(partial, self.threads, SUMS) / cast("float32", a.features)
        factor = T.bind(T.rsqrt(mean + T.float32(a.matmul.norm_eps)))
        with T.serial(0, turns) as turn:
            k = T.bind((turn * self.threads + thread) * lanes)
            with T.If(k < a.features):
                with T.Then():
                    values, weight = load_vector(a.x, [0, 0, k], lanes), load_vector(a.norm, [k], lanes)
                    kind = f"{a.matmul.dtype}x{lanes}"
                    store_vector(self.normalized, call(kind, f"normalized_{name}", values, factor, weight), [k])
                with T.Else(), T.If(k < self.normalized.shape[0]), T.Then():
                    zeros = splat(cast(a.matmul.dtype, T.float32(0)), lanes)
                    store_vector(self.normalized, zeros, [k])
        wait()

    def load(self, k: Expr) -> Expr:
        return load_vector(self.normalized, [k], VALUES_PER_WORD)


def _sum(partial: Buffer, first: Expr | int, count: int) -> Expr:
    total = partial[first]
    for i in range(1, count):
        total = total + partial[first + i]
    return total
