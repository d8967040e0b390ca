"""The vector instructions of the CPU kernels: a class for each instruction set, added to `INSTRUCTION_SETS`."""

from __future__ import annotations

from tvm.target import Target, codegen

from edge_transact.compiler.cpu.isa.avx2 import Avx2, Sse
from edge_transact.compiler.cpu.isa.avx512 import Avx512, Avx512Vnni
from edge_transact.compiler.cpu.isa.avxvnni import AvxVnni
from edge_transact.compiler.cpu.isa.base import InstructionSet
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.isa.neon import NeonDot, NeonI8mm
from edge_transact.compiler.matmul import Rows

__all__ = ["INSTRUCTION_SETS", "InstructionSet", "select"]

INSTRUCTION_SETS: tuple[type[InstructionSet], ...] = (Avx512Vnni, Avx512, AvxVnni, Avx2, Sse, NeonI8mm, NeonDot, Fp32)
"""The best first; the last needs no feature."""


def select(target: Target, digits: int, rows: Rows) -> InstructionSet:
    """The best instruction set of an ``llvm`` target, for activations in 2 digits (16 bits) or 3 (22 bits)."""
    available = (isa for isa in INSTRUCTION_SETS if codegen.llvm_cpu_has_features(list(isa.features), target))
    return next(available).for_target(target, digits, rows)
