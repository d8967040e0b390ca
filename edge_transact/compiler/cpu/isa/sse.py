"""SSE4.2, in vectors of 128 bits: AVX2's products by SSSE3's pmaddubsw and SSE2's pmaddwd."""

from __future__ import annotations

from edge_transact.compiler.cpu.isa.avx2 import Avx2, Avx2Words


class SseWords(Avx2Words):
    """Two weights and two activations per lane, all int16."""

    name = "ssewords"
    features = ("sse4.2",)
    lanes = 4


class Sse(Avx2):
    """Dot products of bytes by pmaddubsw, with sums of 16 bits."""

    name = "sse"
    features = ("sse4.2",)
    lanes = 4
    words = SseWords
    instruction = "llvm.x86.ssse3.pmadd.ub.sw.128"
