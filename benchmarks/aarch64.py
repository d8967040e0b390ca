"""The decode loop of ``android-cpu`` without a phone: instructions per byte, counted in qemu, and cycles by LLVM-MCA.

It assumes that every load hits the L1 cache: the result is what the core can consume if memory keeps up.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import page
from edge_transact.compiler.cpu import matmul
from edge_transact.compiler.cpu.kernels import CPUKernels
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.targets import get_target
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import GROUP_SIZE, QUANTIZATIONS, Quantization

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

DRIVER = Path(__file__).parent / "native" / "decode_kernel.c"
CORES = {"neoverse-v2": "Neoverse V2 (as Cortex-X3)", "neoverse-n2": "Neoverse N2 (as Cortex-A710)"}
KERNEL = "w4_decode"
LISTING = page.RESULTS / "decode-loop-q4f16_0.s"
SIZES = ((2048, 64), (2048, 128))
"""Two matmuls, K by N: the loop accounts for the difference between them."""

ITERATIONS = 100


@dataclass(frozen=True)
class Loop:
    """The innermost loop of a kernel, where its arithmetic is.

    Attributes:
        assembly: Its instructions, one per line.
    """

    assembly: tuple[str, ...]


def measure(_options: Options) -> str:
    """The section's table, and a link to the loop of the format for phones, which goes to `LISTING`."""
    rows, shown = [], ()
    for quantization in QUANTIZATIONS.values():
        if quantization.bits is None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            kernel = compile_kernel(quantization, Path(scratch))
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


def compile_kernel(quantization: Quantization, directory: Path) -> Path:
    """Compile the decode kernel of a quantization for ``android-cpu`` to an object file."""
    import tvm

    target = get_target("android-cpu").tvm_target()
    dtype = quantization.model_dtype
    kind = Matmul(quantization.linear_layout, dtype, dtype, dtype)
    kernels = CPUKernels(target)
    function = matmul.kernel(kind, kernels.instructions(kind, rows="one"), kernels.threads, rows="one")
    module = tvm.IRModule({KERNEL: function.with_attr("global_symbol", KERNEL)})
    path = directory / f"{quantization.name}.o"
    tvm.compile(module, target=target, tir_pipeline=PIPELINE).mod.write_to_file(str(path))
    return path


def disassemble(kernel: Path) -> list[tuple[int, str]]:
    """The addresses and instructions of the kernel's parallel body."""
    output = _run(llvm_tool("llvm-objdump"), "-d", "--no-show-raw-insn", str(kernel))
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
        return sum(text.split()[0] in ("fmla", "sdot") for _, text in code[slice(*loop)])

    return Loop(tuple(text for _, text in code[slice(*max(innermost, key=arithmetic))]))


def cycles(loop: Loop, core: str) -> float:
    """Cycles per iteration, by LLVM-MCA."""
    # LLVM-MCA ignores the branch target, and an absolute address is not valid assembly.
    assembly = re.sub(r"0x[0-9a-f]+$", "0", "\n".join(loop.assembly[-1:]))
    source = "\n".join([*loop.assembly[:-1], assembly, ""])
    command = [llvm_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    output = _run(*command, input=source)
    found = re.search(r"^Total Cycles:\s+(\d+)$", output, re.MULTILINE)
    if found is None:
        raise EdgeTransactError(f"llvm-mca does not know {core}", fix="Install LLVM 19 or newer.")
    return int(found[1]) / ITERATIONS


def instructions_per_byte(kernel: Path, quantization: Quantization) -> float:
    """Instructions per byte of packed weights and scales, counted in qemu."""
    compiler = _tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    import tvm_ffi

    root = Path(tvm_ffi.__file__).parent
    program = kernel.with_suffix("")
    includes = (f"-I{path}" for path in (root / "include", root / "3rdparty" / "dlpack" / "include"))
    # The driver's definitions replace the kernel's weak ones.
    _run(compiler, "-O1", "-static", *includes, str(DRIVER), str(kernel), "-o", str(program))
    layout, bits = quantization.linear_layout, 8 * quantization.model_dtype_bytes
    counts = []
    for size in SIZES:
        log = kernel.with_suffix(".log")
        flags = ["-one-insn-per-tb", "-d", "exec,nochain", "-D", str(log)]
        _run(_tool("qemu-aarch64", "qemu-user"), *flags, str(program), layout, str(bits), *map(str, size))
        with log.open() as lines:
            counts.append(sum(line.startswith("Trace") for line in lines))
    weights = SIZES[1][0] * SIZES[1][1] - SIZES[0][0] * SIZES[0][1]
    return (counts[1] - counts[0]) / (weights / 2 + weights / GROUP_SIZE * quantization.model_dtype_bytes)


def llvm_tool(name: str) -> str:
    """The newest installed version of an LLVM tool."""
    found = sorted(Path("/usr/lib").glob(f"llvm-*/bin/{name}"), key=lambda path: int(path.parts[3].split("-")[1]))
    return str(found[-1]) if found else _tool(name, "llvm")


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise EdgeTransactError(f"{name} is missing", fix=f"Install {package}.")
    return path


def _run(*command: str, input: str | None = None) -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True)
    if done.returncode:
        raise EdgeTransactError(f"{' '.join(command)} failed:\n{done.stderr}", fix="Its output above says why.")
    return done.stdout
