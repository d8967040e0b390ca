"""Code for aarch64, executed in qemu: kernels in a small program without TVM's runtime, and libraries in the runner."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi

from edge_transact.benchmarking.drivers.adb.runner import start_of
from edge_transact.benchmarking.link import link_archive
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.kernels import CPUKernels, kernel
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.targets import get_target, system_lib_prefix
from edge_transact.errors import EdgeTransactError
from tests.support.phone.runner import build_runner

KERNEL = "w4"
"""The name of a compiled kernel."""

DRIVER = Path(__file__).with_name("run_kernel.c")
CODES = {"i": 0, "u": 1, "f": 2}
"""DLPack's codes of dtypes, by numpy's kinds."""


def compile_kernel(kind: Matmul, isa: InstructionSet, rows: Rows, directory: Path) -> Path:
    """Compile a matmul for ``android-cpu`` to an object file, where it is called `KERNEL`."""
    target = get_target("android-cpu").tvm_target()
    function = kernel(kind, isa, CPUKernels(target, 1).threads, rows=rows)
    module = tvm.IRModule({KERNEL: function.with_attr("global_symbol", KERNEL)})
    path = directory / "kernel.o"
    tvm.compile(module, target=target, tir_pipeline=PIPELINE).mod.write_to_file(str(path))
    return path


def link(kernel: Path) -> Path:
    """A program of a kernel's object file, next to it."""
    root, program = Path(tvm_ffi.__file__).parent, kernel.with_suffix("")
    includes = (f"-I{path}" for path in (root / "include", root / "3rdparty" / "dlpack" / "include"))
    command = [tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"), "-O1", "-static", f"-DKERNEL=__tvm_ffi_{KERNEL}"]
    # The driver's definitions replace the kernel's weak ones.
    run(*command, *includes, str(DRIVER), str(kernel), "-o", str(program))
    return program


def call(program: Path, arguments: Sequence[np.ndarray], *flags: str) -> np.ndarray:
    """The last of the arguments after the kernel's call. The program fails at an instruction that the CPU lacks."""
    stdin = bytearray()
    for array in arguments:
        kind = [CODES[array.dtype.kind], 8 * array.itemsize, array.ndim, *array.shape]
        stdin += np.array(kind, np.int64).tobytes() + array.tobytes()
    result = arguments[-1]
    output = run(tool("qemu-aarch64", "qemu-user"), *flags, str(program), input=bytes(stdin))
    return np.frombuffer(output, result.dtype).reshape(result.shape)


def run_library(archive: Path, name: str, weights: Path, prompt: Sequence[int], count: int) -> list[int]:
    """The first tokens after a prompt, most likely ones, by an ``android-cpu`` library and its directory of shards."""
    runner, ids = build_runner(), archive.with_suffix(".ids")
    ids.write_text(" ".join(map(str, prompt)) + "\n")
    files = ("--model", weights, "--library", link_archive(archive), "--system-lib-prefix", system_lib_prefix(name))
    choices = ("--device", "cpu", "--prompt", ids, "--decode", count, "--repetitions", 1, "--warmups", 0)
    start = start_of(str(runner), portable=True)
    lines = run(tool("qemu-aarch64", "qemu-user"), *start, *map(str, (*files, *choices))).splitlines()
    (repetition,) = (line for line in map(json.loads, lines) if line["kind"] == "repetition")
    return repetition["tokens"]


def tool(name: str, package: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        raise EdgeTransactError(f"{name} is missing", fix=f"Install {package}.")
    return path


def run(*command: str, input: bytes | None = None) -> bytes:
    """A command's output."""
    done = subprocess.run(command, input=input, capture_output=True)
    if done.returncode:
        words = f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr.decode()}"
        raise EdgeTransactError(words, fix="Its output above says why.")
    return done.stdout


def llvm_tool(name: str) -> str:
    """The newest installed version of an LLVM tool."""
    found = sorted(Path("/usr/lib").glob(f"llvm-*/bin/{name}"), key=lambda path: int(path.parts[3].split("-")[1]))
    return str(found[-1]) if found else tool(name, "llvm")
