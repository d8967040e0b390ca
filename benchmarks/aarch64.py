"""The loops of ``android-cpu`` without a phone: cycles by LLVM-MCA, and decode's instructions, counted in qemu.

It assumes that every load hits the L1 cache: the result is what the core can consume if memory keeps up.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import emulated, page
from edge_transact.compiler.cpu import matmul
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.isa.neondot import NeonDot
from edge_transact.compiler.cpu.isa.neoni8mm import NeonI8mm
from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.targets import get_target
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import GROUP_SIZE, QUANTIZATIONS, VALUES_PER_WORD, Quantization

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

CORES = {"neoverse-v2": "Neoverse V2 (as Cortex-X3)", "neoverse-n2": "Neoverse N2 (as Cortex-A710)"}
KERNEL = "w4"
LISTING = page.RESULTS / "decode-loop-q4f16_0.s"
SIZES = ((2048, 64), (2048, 128))
"""Two matmuls, K by N: the loop accounts for the difference between them."""

ITERATIONS = 100
PRODUCTS = {"sdot": 16, "smmla": 32}
"""Products of bytes of an instruction."""


@dataclass(frozen=True)
class Loop:
    """The innermost loop of a kernel, where its arithmetic is.

    Attributes:
        assembly: Its instructions, one per line.
    """

    assembly: tuple[str, ...]

    def products(self) -> int:
        """Products of bytes of an iteration."""
        return sum(PRODUCTS.get(text.split()[0], 0) for text in self.assembly)


def measure(_options: Options) -> str:
    """The section's tables, and a link to the loop of the format for phones, which goes to `LISTING`."""
    return f"{_decode()}\n\n{_prefill()}"


def _decode() -> str:
    rows, shown = [], ()
    for quantization in QUANTIZATIONS.values():
        if quantization.bits is None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            kernel = compile_decode(quantization, Path(scratch))
            loop = find_loop(disassemble(kernel))
            per_byte = instructions_per_byte(kernel, quantization)
        row = [quantization.name, str(len(loop.assembly)), f"{per_byte:.2f}"]
        for core in CORES:
            # Nearly all instructions are in the loop.
            cycles_per_byte = cycles(loop, core) / len(loop.assembly) * per_byte
            row.append(f"{1 / cycles_per_byte:.2f}")
        rows.append(row)
        if quantization.name == "q4f16_0":
            shown = loop.assembly
    header = [
        "",
        "instructions in the loop",
        "instructions per byte",
        *(f"bytes per cycle, {name}" for name in CORES.values()),
    ]
    text = page.table(header, rows)
    LISTING.write_text("\n".join(shown) + "\n")
    return f"{text}\n\nThe loop of `q4f16_0`: [{LISTING.name}](../benchmarks/results/{LISTING.name})."


def _prefill() -> str:
    rows = []
    for instruction, isa in (("sdot", NeonDot(2)), ("smmla", NeonI8mm(2))):
        with tempfile.TemporaryDirectory() as scratch:
            loop = find_loop(disassemble(compile_prefill(isa, Path(scratch))))
        # Each weight is multiplied by both digits of an activation.
        products = loop.products() / isa.digits
        speeds = [f"{products / cycles(loop, core):.1f}" for core in CORES]
        rows.append([f"`{instruction}`", str(len(loop.assembly)), f"{products:,.0f}", *speeds])
    header = ["", "instructions in the loop", "products", *(f"products per cycle, {name}" for name in CORES.values())]
    of = "A product is that of a weight and a 16-bit activation: two products of bytes."
    return f"Prefill of `q4f16_0` by either instruction. {of}\n\n{page.table(header, rows)}"


def compile_decode(quantization: Quantization, directory: Path) -> Path:
    """Compile the decode kernel of a quantization for ``android-cpu`` to an object file."""
    dtype = quantization.model_dtype
    kind = Matmul(quantization.linear_layout, dtype, dtype, dtype)
    isa = CPUKernels(get_target("android-cpu").tvm_target(), 1).instructions(kind, rows="one")
    return compile_kernel(kind, isa, "one", directory)


def compile_prefill(isa: InstructionSet, directory: Path) -> Path:
    """Compile the prefill kernel of ``q4f16_0`` for ``android-cpu`` to an object file, with this instruction set."""
    return compile_kernel(Matmul("KN", "float16", "float16", "float16"), isa, "any", directory)


def compile_kernel(kind: Matmul, isa: InstructionSet, rows: Rows, directory: Path) -> Path:
    """Compile a matmul for ``android-cpu`` to an object file, where it is called `KERNEL`."""
    import tvm

    target = get_target("android-cpu").tvm_target()
    function = matmul.kernel(kind, isa, CPUKernels(target, 1).threads, rows=rows)
    module = tvm.IRModule({KERNEL: function.with_attr("global_symbol", KERNEL)})
    path = directory / "kernel.o"
    tvm.compile(module, target=target, tir_pipeline=PIPELINE).mod.write_to_file(str(path))
    return path


def disassemble(kernel: Path) -> list[tuple[int, str]]:
    """The addresses and instructions of the kernel's parallel body."""
    output = emulated.run(llvm_tool("llvm-objdump"), "-d", "--no-show-raw-insn", str(kernel)).decode()
    body = re.search(rf"<{KERNEL}_compute_>:\n(.*?)(?:\n\n|\Z)", output, re.DOTALL)
    if body is None:
        raise EdgeTransactError(f"{kernel} has no parallel body", fix="Check how this version of TVM names it.")
    lines = (re.match(r"\s*([0-9a-f]+):\s+(.*?)\s*(?://.*)?$", line) for line in body[1].splitlines())
    return [(int(line[1], 16), re.sub(r"\s*<.*>", "", line[2]).replace("\t", " ")) for line in lines if line]


def find_loop(code: list[tuple[int, str]]) -> Loop:
    """The innermost loop with the most multiply-adds."""
    loops = []
    for index, (address, text) in enumerate(code):
        jump = re.match(r"(?:b\.\w+|cbn?z .*|tbn?z .*|b) .*?0x([0-9a-f]+)$", text)
        if jump and int(jump[1], 16) <= address:
            start = next(i for i, (at, _) in enumerate(code) if at == int(jump[1], 16))
            loops.append((start, index + 1))
    innermost = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]

    def arithmetic(loop: tuple[int, int]) -> int:
        return sum(text.split()[0] in ("fmla", *PRODUCTS) for _, text in code[slice(*loop)])

    return Loop(tuple(text for _, text in code[slice(*max(innermost, key=arithmetic))]))


def cycles(loop: Loop, core: str) -> float:
    """Cycles per iteration, by LLVM-MCA."""
    # LLVM-MCA ignores the branch target, and an absolute address is not valid assembly.
    assembly = re.sub(r"0x[0-9a-f]+$", "0", "\n".join(loop.assembly[-1:]))
    source = "\n".join([*loop.assembly[:-1], assembly, ""])
    command = [llvm_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    output = emulated.run(*command, input=source.encode()).decode()
    found = re.search(r"^Total Cycles:\s+(\d+)$", output, re.MULTILINE)
    if found is None:
        raise EdgeTransactError(f"llvm-mca does not know {core}", fix="Install LLVM 19 or newer.")
    return int(found[1]) / ITERATIONS


def instructions_per_byte(kernel: Path, quantization: Quantization) -> float:
    """Instructions per byte of packed weights and scales, counted in qemu."""
    program, log, counts = emulated.link(kernel, KERNEL), kernel.with_suffix(".log"), []
    flags = ["-one-insn-per-tb", "-d", "exec,nochain", "-D", str(log)]
    for k, n in SIZES:
        x, scale, out = (
            np.zeros(size, quantization.model_dtype) for size in ((1, 1, k), (k // GROUP_SIZE, n), (1, 1, n))
        )
        weight = np.zeros((k // VALUES_PER_WORD, n), np.uint32)
        if quantization.linear_layout == "NK":
            weight, scale = weight.T, scale.T
        emulated.call(program, [x, weight, scale, out], *flags)
        with log.open() as lines:
            counts.append(sum(line.startswith("Trace") for line in lines))
    weights = SIZES[1][0] * SIZES[1][1] - SIZES[0][0] * SIZES[0][1]
    return (counts[1] - counts[0]) / (weights / 2 + weights / GROUP_SIZE * quantization.model_dtype_bytes)


def llvm_tool(name: str) -> str:
    """The newest installed version of an LLVM tool."""
    found = sorted(Path("/usr/lib").glob(f"llvm-*/bin/{name}"), key=lambda path: int(path.parts[3].split("-")[1]))
    return str(found[-1]) if found else emulated.tool(name, "llvm")
