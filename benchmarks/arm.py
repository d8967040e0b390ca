"""The loops of ``android-cpu`` without a phone, next to llama.cpp's for the same CPUs.

Instructions are counted in qemu, and LLVM-MCA models the cycles of the loop that has nearly all of them. It assumes
that every load hits the L1 cache: the result is what a core can consume if memory keeps up. llama.cpp's kernels are
compiled by the same LLVM from the sdist that `llama_cpp` measures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import page
from benchmarks.llama_cpp import QUANTIZATION, sources
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.isa.neon import NeonDot, NeonI8mm
from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS, Quantization
from tests.support import emulated

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

CORES = {"neoverse-v2": "Cortex-X3", "neoverse-n2": "Cortex-A710"}
"""Phones' cores by those of LLVM's models that are most like them."""

LISTING = page.RESULTS / "decode-loop-q4f16_0.s"
K, COLUMNS = 1024, (64, 128)
"""Two matmuls: their loops account for the difference between them."""

PREFILL_ROWS = 48
ITERATIONS = 100
GROUP = 32
PRODUCTS = {"sdot": 16, "smmla": 32}
"""Products of bytes of an instruction."""

KINDS = {"dotprod": "armv8.2-a+dotprod+fp16", "i8mm": "armv8.6-a+dotprod+fp16"}
"""What a CPU has for products of bytes, and llama.cpp's architecture for it, which CMake's options choose."""

DRIVER = """
#include <stdlib.h>
void KERNEL(int k, float *out, size_t stride, const void *weights, const void *x, int rows, int columns);
int main(int count, char **words) {
  int k = atoi(words[1]), rows = atoi(words[2]), columns = atoi(words[3]);
  void *weights = calloc(k / 32 * 18, columns), *x = calloc(k / 32 * 34, rows);
  KERNEL(k, calloc(4 * columns, rows), columns, weights, x, rows, columns);
}
"""


@dataclass(frozen=True)
class Kernel:
    """A compiled matmul.

    Attributes:
        objects: Its object file.
        symbol: Pattern of the symbol that has its loop.
        rows: Rows of activations.
        run: Executes it for a number of columns, with these flags of qemu.
    """

    objects: Path
    symbol: str
    rows: int
    run: Callable[[int, Sequence[str]], object]

    def instructions(self) -> float:
        """Instructions for a group of weights and a row, counted in qemu."""
        log, counts = self.objects.with_suffix(".log"), []
        for columns in COLUMNS:
            self.run(columns, ["-cpu", "max", "-one-insn-per-tb", "-d", "exec,nochain", "-D", str(log)])
            with log.open() as lines:
                counts.append(sum(line.startswith("Trace") for line in lines))
            log.unlink()
        return (counts[1] - counts[0]) / ((COLUMNS[1] - COLUMNS[0]) * K * self.rows) * GROUP


def measure(options: Options) -> str:
    """The section's tables. The loop of decode in the format for phones goes to `LISTING`."""
    return f"{_formats(options.scratch)}\n\n{_next_to_llama_cpp(options.scratch)}"


def _formats(scratch: Path) -> str:
    rows = []
    for quantization in QUANTIZATIONS.values():
        if quantization.bits is None:
            continue
        kernel = _ours(quantization, NeonDot(2 if quantization.model_dtype == "float16" else 3), "one", scratch)
        loop, instructions = find_loop(kernel), kernel.instructions()
        group_bytes = GROUP / 2 + quantization.model_dtype_bytes
        speeds = [group_bytes / (cycles(loop, core) / len(loop) * instructions) for core in CORES]
        rows.append([quantization.name, str(len(loop)), f"{instructions / group_bytes:.2f}"])
        rows[-1] += [f"{speed:.2f}" for speed in speeds]
        if quantization.name == QUANTIZATION:
            LISTING.write_text("\n".join(loop) + "\n")
    named = [f"bytes per cycle, {name}" for name in CORES.values()]
    return page.table(["decode", "instructions in the loop", "instructions per byte", *named], rows)


def _next_to_llama_cpp(scratch: Path) -> str:
    quantization, rows = QUANTIZATIONS[QUANTIZATION], []
    sets: dict[str, InstructionSet] = {"dotprod": NeonDot(2), "i8mm": NeonI8mm(2)}
    for phase, which in (("decode", "one"), ("prefill", "any")):
        for kind, isa in sets.items():
            ours = _ours(quantization, isa, which, scratch)
            theirs = _llama_cpp(kind, phase, scratch)
            row = [f"{phase}, {kind}"]
            figures = [_of_a_group(kernel) for kernel in (ours, theirs)]
            for own, other in zip(*figures, strict=True):
                row += [f"{own:.2f}", f"{other:.2f}"]
            rows.append(row)
    named = [f"{whose}, {what}" for what in ("instructions", *CORES.values()) for whose in ("ours", "llama.cpp")]
    return page.table([f"{GROUP} weights by a row", *named], rows)


def _of_a_group(kernel: Kernel) -> list[float]:
    loop, instructions = find_loop(kernel), kernel.instructions()
    return [instructions, *(cycles(loop, core) / len(loop) * instructions for core in CORES)]


def _ours(quantization: Quantization, isa: InstructionSet, which: Rows, scratch: Path) -> Kernel:
    """Our kernel for one row or for any number."""
    dtype, rows = quantization.model_dtype, 1 if which == "one" else PREFILL_ROWS
    directory = scratch / f"{quantization.name}-{isa.name}-{which}"
    directory.mkdir(exist_ok=True)
    matmul = Matmul(quantization.linear_layout, dtype, quantization, dtype)
    objects = emulated.compile_kernel(matmul, isa, which, directory)
    program = emulated.link(objects)

    def run(columns: int, flags: Sequence[str]) -> object:
        x, out = np.zeros((1, rows, K), dtype), np.zeros((1, rows, columns), dtype)
        words = np.zeros((K // quantization.values_per_word, columns), np.uint32)
        scales = np.zeros((K // GROUP, columns), dtype)
        if quantization.linear_layout == "NK":
            words, scales = words.T, scales.T
        return emulated.call(program, [x, words, scales, out], *flags)

    return Kernel(objects, rf"{emulated.KERNEL}_\w+", rows, run)


def _llama_cpp(kind: str, phase: str, scratch: Path) -> Kernel:
    """llama.cpp's kernel of Q4_0 by Q8_0 for such a CPU: it keeps weights in blocks of four columns."""
    name = f"ggml_{'gemv' if phase == 'decode' else 'gemm'}_q4_0_4x{4 if kind == 'dotprod' else 8}_q8_0"
    directory, rows = scratch / f"llama.cpp-{kind}-{phase}", 1 if phase == "decode" else PREFILL_ROWS
    directory.mkdir(exist_ok=True)
    ggml, objects, driver, program = sources() / "ggml", directory / "repack.o", directory / "d.c", directory / "d"
    extension = "+i8mm" * (kind == "i8mm")
    compiler = (emulated.llvm_tool("clang"), "--target=aarch64-linux-gnu", f"-march={KINDS[kind]}{extension}")
    compiler += ("-std=c++17", "-O3", "-DNDEBUG", "-ffunction-sections")
    includes = [f"-I{ggml / path}" for path in ("include", "src", "src/ggml-cpu")]
    source = ggml / "src" / "ggml-cpu" / "arch" / "arm" / "repack.cpp"
    emulated.run(*compiler, *includes, "-c", str(source), "-o", str(objects))
    driver.write_text(DRIVER)
    # Of the file, only this kernel is linked: the others' functions are elsewhere.
    linked = ("-static", f"-DKERNEL={name}", "-Wl,--gc-sections", "-Wl,--unresolved-symbols=ignore-all")
    linker = emulated.tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    emulated.run(linker, "-O1", *linked, str(driver), str(objects), "-o", str(program))

    def run(columns: int, flags: Sequence[str]) -> object:
        emulator = emulated.tool("qemu-aarch64", "qemu-user")
        return emulated.run(emulator, *flags, str(program), str(K), str(rows), str(columns))

    return Kernel(objects, name, rows, run)


def find_loop(kernel: Kernel) -> list[str]:
    """The instructions of the innermost loop with the most products."""
    objdump = emulated.llvm_tool("llvm-objdump")
    output = emulated.run(objdump, "-d", "--no-show-raw-insn", str(kernel.objects)).decode()
    loops = []
    for _, body in re.findall(rf"<({kernel.symbol})>:\n(.*?)(?=\n\n|\Z)", output, re.DOTALL):
        lines = (re.match(r"\s*([0-9a-f]+):\s+(.*?)\s*(?://.*)?$", line) for line in body.splitlines())
        code = [(int(line[1], 16), re.sub(r"\s*<.*>", "", line[2]).replace("\t", " ")) for line in lines if line]
        loops += _innermost(code)
    if not loops:
        raise EdgeTransactError(f"{kernel.objects} has no loop in {kernel.symbol}", fix="Look at its disassembly.")
    return max(loops, key=lambda loop: sum(PRODUCTS.get(text.split()[0], 0) for text in loop))


def _innermost(code: Sequence[tuple[int, str]]) -> list[list[str]]:
    """The loops of a function that have no loop in them."""
    index = {address: i for i, (address, _) in enumerate(code)}
    loops = []
    for end, (address, text) in enumerate(code):
        jump = re.match(r"(?:b\.\w+|cbn?z .*|tbn?z .*|b) .*?0x([0-9a-f]+)$", text)
        if jump and int(jump[1], 16) <= address:
            loops.append((index[int(jump[1], 16)], end + 1))
    alone = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return [[text for _, text in code[a:b]] for a, b in alone]


def cycles(loop: Sequence[str], core: str) -> float:
    """Cycles per iteration, by LLVM-MCA."""
    # LLVM-MCA ignores the branch's target, and an absolute address isn't valid assembly.
    source = "\n".join([*loop[:-1], re.sub(r"0x[0-9a-f]+$", "0", loop[-1]), ""])
    command = [emulated.llvm_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    output = emulated.run(*command, input=source.encode()).decode()
    found = re.search(r"^Total Cycles:\s+(\d+)$", output, re.MULTILINE)
    if found is None:
        raise EdgeTransactError(f"llvm-mca doesn't know {core}", fix="Install LLVM 19 or newer.")
    return int(found[1]) / ITERATIONS
