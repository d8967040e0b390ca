"""``python -m benchmarks.mesa FILE.cl...``: what Mesa's compilers for Adreno and Mali make of OpenCL kernels.

``--beside LIBRARY`` compares our decode kernels with those in a phone library of MLC's (`benchmarks.shipped`).

Machine code is compiled for real, and never executed. Debian's arm64 packages hold the drivers freedreno and panfrost
behind rusticl, Mesa's OpenCL, and a drm-shim, which stands in for a phone's kernel driver. They are unpacked into the
cache and run under qemu. The drivers print the machine code when ``IR3_SHADER_DEBUG`` or ``BIFROST_MESA_DEBUG`` ask for
it (https://docs.mesa3d.org/envvars.html).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_transact.artifacts.outputs import new_directory
from edge_transact.cache import cache_directory
from edge_transact.errors import EdgeTransactError

PROGRAM = Path(__file__).parent / "native" / "compile_kernels.c"
PACKAGES = ("mesa-opencl-icd", "mesa-drm-shim", "ocl-icd-libopencl1", "opencl-c-headers")
LIBRARIES = "usr/lib/aarch64-linux-gnu"
COMMANDS = {"apt-get": "apt", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
"""The Debian package of each command that is needed."""

SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"
APT = """Dir "{directory}";
Dir::State::status "{directory}/status";
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
"""


@dataclass(frozen=True)
class MachineCode:
    """What a compiler made of a kernel.

    Attributes:
        instructions: All of them, repetitions counted, without those that only wait: other threads run meanwhile.
        loops: Instructions of each innermost loop.
        registers: Registers of a thread; on Adreno, of four times 32 bits.
        threads: Threads that a core keeps at a time: a number, or "all" or "half" of what it can.
        spills: Loads and stores of a thread's own memory, where what finds no register is.
    """

    instructions: int
    loops: tuple[int, ...]
    registers: int
    threads: str
    spills: int

    @property
    def longest_loop(self) -> int:
        """Instructions of the longest loop without loops inside it."""
        return max(self.loops, default=0)


def _innermost(loops: Mapping[int, int]) -> tuple[int, ...]:
    """Lengths of loops that have none inside, from each one's first instruction and the one after its last."""
    return tuple(
        end - first
        for first, end in sorted(loops.items())
        if not any(first <= a and b <= end and (a, b) != (first, end) for a, b in loops.items())
    )


def parse_adreno(text: str) -> MachineCode:
    """Parse what ``IR3_SHADER_DEBUG=cs`` prints: a listing, then figures.

    ``(rpt2)`` repeats an instruction twice; ``nop`` and ``(nop2)`` wait. Half registers are parts of full ones. Threads
    follow from registers: 96 for a pair of waves of 64 threads, which always work as one, and at most 16 of those
    (``ir3.c``, ``a7xx_gpu.py``).
    """
    listing = text.replace("MESA: info: ", "").rsplit("Native code", 1)[-1]
    registers = int(re.findall(r"(\d+) full", listing)[-1])
    # Before it stands what is executed once for all threads.
    listing = listing.rsplit("shpe\n", 1)[-1]
    counts, labels, loops, spills = [0], dict[str, int](), dict[int, int](), 0
    for line in listing.splitlines():
        if label := re.match(r"(l\d+):", line):
            labels[label[1]] = counts[-1]
        elif found := re.match(r"(?:\(\w+\))* ?([a-z]\w*)", line):
            name, repeated = found[1], re.search(r"\(rpt(\d+)\)", line)
            counts.append(counts[-1] + (name != "nop") * (1 + int(repeated[1] if repeated else 0)))
            spills += name in ("ldp", "stp")
            target = re.search(r"#(l\d+)", line)
            if target and target[1] in labels:
                loops[labels[target[1]]] = counts[-1]
    threads = min(16, 96 // (2 * max(1, registers)) * 2) * 128
    return MachineCode(counts[-1], _innermost(loops), registers, f"{threads:,}", spills)


def parse_mali(text: str) -> MachineCode:
    """Parse what ``BIFROST_MESA_DEBUG=shaders,shaderdb`` prints: forms of the kernel, a listing, then figures.

    A branch counts from the instruction after it. Above 32 registers, half of the threads fit a core.
    """
    listing = text[text.rindex("\n}") :]
    ((full, spilled, filled),) = re.findall(r"(\d) threads, .* (\d+):(\d+) spills:fills", listing)
    counts, loops, registers = [0], dict[int, int](), set[str]()
    for line in listing.splitlines():
        if not (found := re.match(r"   ([A-Z]\w*)", line)):
            continue
        counts.append(counts[-1] + (found[1] != "NOP"))
        registers.update(re.findall(r"\br\d+", line))
        if jump := re.search(r"BRANCH.*offset:-(\d+)", line):
            loops[counts[len(counts) - 1 - int(jump[1])]] = counts[-1]
    threads = "all" if full == "2" else "half"
    return MachineCode(counts[-1], _innermost(loops), len(registers), threads, int(spilled) + int(filled))


GPUS: dict[str, tuple[str, dict[str, str], Callable[[str], MachineCode]]] = {
    "adreno-750": ("freedreno", {"FD_GPU_ID": "750", "IR3_SHADER_DEBUG": "cs,nocache"}, parse_adreno),
    "mali-g610": ("panfrost", {"PAN_GPU_ID": "a867", "BIFROST_MESA_DEBUG": "shaders,shaderdb"}, parse_mali),
}
"""Mesa's driver for a GPU, the environment in which the drm-shim poses as it, and what reads the machine code."""


def compile_kernels(gpu: str, sources: Mapping[str, str]) -> dict[str, MachineCode]:
    """Compile OpenCL programs of one kernel each, by names of one's own, for one of `GPUS`.

    Raises:
        EdgeTransactError: A command is missing, Debian's packages can't be had, or a kernel doesn't compile.
    """
    (driver, variables, parse), root = GPUS[gpu], installed()
    system = root / "system"
    environment = {
        "LD_LIBRARY_PATH": f"/{LIBRARIES}",
        "LD_PRELOAD": f"{system}/{LIBRARIES}/lib{driver}_noop_drm_shim.so",
        "OCL_ICD_VENDORS": f"{system}/etc/OpenCL/vendors",
        "RUSTICL_ENABLE": driver,
        "RUSTICL_FEATURES": "fp16",
        "MESA_SHADER_CACHE_DISABLE": "1",
        **variables,
    }
    with tempfile.TemporaryDirectory(prefix="edge-transact-mesa-") as directory:
        for number, source in enumerate(sources.values()):
            (Path(directory) / str(number)).write_text(source)
        command = [str(shutil.which("qemu-aarch64")), "-L", system, root / "compile_kernels"]
        command += map(str, range(len(sources)))
        run = subprocess.run(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    _, *printed = re.split(r"^### .*\n", run.stdout.decode(errors="replace"), flags=re.MULTILINE)
    if run.returncode or len(printed) != len(sources) or any("!!!" in text for text in printed):
        words = next((text for text in printed if "!!!" in text), run.stdout.decode(errors="replace"))[-1000:]
        raise EdgeTransactError(f"Mesa can't compile for {gpu}: {words}", fix="See what the compiler says.")
    return {name: parse(text) for name, text in zip(sources, printed, strict=True)}


def installed() -> Path:
    """The directory of the unpacked packages and of the program that calls the compilers; made when it is missing."""
    if missing := [package for command, package in COMMANDS.items() if shutil.which(command) is None]:
        raise EdgeTransactError(f"{', '.join(missing)} missing", fix=f"apt-get install {' '.join(missing)}")
    root = cache_directory() / "mesa"
    if not root.exists():
        with new_directory(root) as fresh, tempfile.TemporaryDirectory(prefix="edge-transact-apt-") as apt:
            for package in _downloaded(Path(apt)):
                subprocess.run(["dpkg-deb", "--extract", package, fresh / "system"], check=True)
                if package.name.startswith("mesa-opencl-icd_"):
                    (fresh / "version").write_text(package.name.split("_")[1])
            # Debian's programs expect /lib; all its files are in /usr/lib.
            if not (fresh / "system" / "lib").exists():
                (fresh / "system" / "lib").symlink_to("usr/lib")
            usr, binary = fresh / "system" / "usr", fresh / "compile_kernels"
            options = ["-O1", "-rdynamic", f"-I{usr / 'include'}", f"-L{fresh / 'system' / LIBRARIES}"]
            command = ["aarch64-linux-gnu-gcc", "-o", binary, PROGRAM, *options, "-l:libOpenCL.so.1"]
            subprocess.run(command, check=True)
    return root


def version() -> str:
    """The version of Mesa's package."""
    return (installed() / "version").read_text()


def _downloaded(directory: Path) -> list[Path]:
    """The packages and all that they depend on, for arm64, whatever this machine has installed."""
    for folder in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (directory / folder).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "etc/apt/sources.list").write_text(SOURCE)
    (directory / "apt.conf").write_text(APT.format(directory=directory))
    for command in (["update"], ["install", "--download-only", "--yes", *PACKAGES]):
        environment = {"APT_CONFIG": str(directory / "apt.conf"), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
        run = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            message = f"Debian's arm64 packages can't be had: {run.stderr[-500:]}"
            raise EdgeTransactError(message, fix="Check the network and the mirror.")
    return sorted((directory / "var/cache/apt/archives").glob("*.deb"))


def main() -> None:
    """Print what each compiler makes of each file, or the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesa", description=__doc__)
    parser.add_argument("--beside", type=Path, metavar="LIBRARY", help="an .so that holds models compiled by MLC-LLM")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.cl")
    arguments = parser.parse_args()
    if arguments.beside:
        from benchmarks import shipped

        print(shipped.compare(arguments.beside))
    sources = {path.name: path.read_text() for path in arguments.files}
    for gpu in GPUS if sources else ():
        for file, code in compile_kernels(gpu, sources).items():
            print(f"{gpu} {file}: {code}, longest loop {code.longest_loop}")


if __name__ == "__main__":
    main()
