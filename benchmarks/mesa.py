"""``python -m benchmarks.mesa FILE.cl...``: what Mesa's compilers for Adreno and Mali make of OpenCL kernels.

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
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_transact.artifacts.outputs import new_directory
from edge_transact.cache import cache_directory
from edge_transact.errors import EdgeTransactError

PROGRAM = Path(__file__).parent / "native" / "compile_kernels.c"
PACKAGES = ("mesa-opencl-icd", "mesa-drm-shim", "ocl-icd-libopencl1", "opencl-c-headers")
LIBRARIES = "usr/lib/aarch64-linux-gnu"
COMMANDS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
}
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
        loops: The first instruction of each loop and the one after its last, outer loops first.
        registers: Registers of a thread; on Adreno, of four times 32 bits.
        threads: Threads that a core keeps at a time: a number, or "all" or "half" of what it can.
        spills: Loads and stores of a thread's own memory, where what finds no register is.
        memory: Loads and stores of global and of local memory, by name.
    """

    instructions: int
    loops: tuple[tuple[int, int], ...]
    registers: int
    threads: str
    spills: int
    memory: Mapping[str, int]

    @property
    def longest_loop(self) -> int:
        """Instructions of the longest loop without loops inside it."""
        innermost = [end - first for first, end in self.loops if not any(first <= a and b < end for a, b in self.loops)]
        return max(innermost, default=0)


@dataclass(frozen=True)
class GPU:
    """A GPU that Mesa compiles for.

    Attributes:
        driver: Mesa's.
        variables: Environment that makes the drm-shim pose as this GPU.
        wave: Threads that execute an instruction together.
        parse: From what the driver prints.
    """

    driver: str
    variables: Mapping[str, str]
    wave: int
    parse: Callable[[str], MachineCode]


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
    counts, labels, loops, memory = [0], {}, {}, Counter[str]()
    for line in listing.splitlines():
        if label := re.match(r"(l\d+):", line):
            labels[label[1]] = counts[-1]
        elif found := re.match(r"(?:\(\w+\))* ?([a-z]\w*)", line):
            name, repeated = found[1], re.search(r"\(rpt(\d+)\)", line)
            counts.append(counts[-1] + (name != "nop") * (1 + int(repeated[1] if repeated else 0)))
            if re.fullmatch(r"(ld|st)[glp]", name):
                memory[name] += 1
            target = re.search(r"#(l\d+)", line)
            if target and target[1] in labels:
                loops[labels[target[1]]] = counts[-1]
    spills = memory.pop("ldp", 0) + memory.pop("stp", 0)
    threads = min(16, 96 // (2 * max(1, registers)) * 2) * 128
    return MachineCode(counts[-1], tuple(sorted(loops.items())), registers, str(threads), spills, dict(memory))


def parse_mali(text: str) -> MachineCode:
    """Parse what ``BIFROST_MESA_DEBUG=shaders,shaderdb`` prints: forms of the kernel, a listing, then figures.

    A branch counts from the instruction after it. Above 32 registers, half of the threads fit a core.
    """
    listing = text[text.rindex("\n}") :]
    ((full, spilled, filled),) = re.findall(r"(\d) threads, .* (\d+):(\d+) spills:fills", listing)
    counts, loops, memory, registers = [0], {}, Counter[str](), set[str]()
    for line in listing.splitlines():
        if not (found := re.match(r"   ([A-Z]\w*)", line)):
            continue
        counts.append(counts[-1] + (found[1] != "NOP"))
        registers.update(re.findall(r"\br\d+", line))
        if re.match(r"LOAD|STORE|ATOM", found[1]):
            memory[found[1]] += 1
        if jump := re.search(r"BRANCH.*offset:-(\d+)", line):
            loops[counts[len(counts) - 1 - int(jump[1])]] = counts[-1]
    threads = "all" if full == "2" else "half"
    spills = int(spilled) + int(filled)
    return MachineCode(counts[-1], tuple(sorted(loops.items())), len(registers), threads, spills, dict(memory))


GPUS = {
    "adreno-750": GPU("freedreno", {"FD_GPU_ID": "750"}, 128, parse_adreno),
    "mali-g610": GPU("panfrost", {"PAN_GPU_ID": "a867"}, 16, parse_mali),
}


def compile_kernels(gpu: str, sources: Mapping[str, str]) -> dict[str, MachineCode]:
    """Compile OpenCL programs of one kernel each.

    Args:
        gpu: A name in `GPUS`.
        sources: Each kernel's source by a name of one's own.

    Raises:
        EdgeTransactError: A command is missing, or a kernel doesn't compile.
    """
    printed = printed_by_driver(GPUS[gpu], sources)
    return {name: GPUS[gpu].parse(text) for name, text in printed.items()}


def printed_by_driver(gpu: GPU, sources: Mapping[str, str]) -> dict[str, str]:
    """What the driver prints while it compiles each program."""
    root = installed()
    system = root / "system"
    environment = {
        "LD_LIBRARY_PATH": f"/{LIBRARIES}",
        "LD_PRELOAD": f"{system}/{LIBRARIES}/lib{gpu.driver}_noop_drm_shim.so",
        "OCL_ICD_VENDORS": f"{system}/etc/OpenCL/vendors",
        "RUSTICL_ENABLE": gpu.driver,
        "RUSTICL_FEATURES": "fp16",
        "MESA_SHADER_CACHE_DISABLE": "1",
        "IR3_SHADER_DEBUG": "cs,nocache",
        "BIFROST_MESA_DEBUG": "shaders,shaderdb",
        **gpu.variables,
    }
    with tempfile.TemporaryDirectory(prefix="edge-transact-mesa-") as directory:
        files = {str(number): name for number, name in enumerate(sources)}
        for file, name in files.items():
            (Path(directory) / file).write_text(sources[name])
        command = [str(shutil.which("qemu-aarch64")), "-L", str(system), str(root / "compile_kernels"), *files]
        run = subprocess.run(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    before, *parts = re.split(r"^### (.*)\n", run.stdout.decode(errors="replace"), flags=re.MULTILINE)
    printed = {files[file]: text for file, text in zip(parts[::2], parts[1::2], strict=True)}
    failed = [name for name, text in printed.items() if "!!!" in text]
    if failed or run.returncode:
        name = (failed or [*printed, "Mesa"])[0 if failed else -1 if not printed else len(printed) - 1]
        words = printed.get(name, before)[-1000:]
        raise EdgeTransactError(f"{name} doesn't compile for {gpu.driver}: {words}", fix="See what the compiler says.")
    return printed


def installed() -> Path:
    """The directory of the unpacked packages and of the program that calls the compilers; made when it is missing.

    Raises:
        EdgeTransactError: A command is missing, or Debian's packages can't be had.
    """
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
            _build_program(fresh)
    elif (root / "compile_kernels").stat().st_mtime < PROGRAM.stat().st_mtime:
        _build_program(root)
    return root


def version() -> str:
    """The version of Mesa's package."""
    return (installed() / "version").read_text()


def _build_program(root: Path) -> None:
    usr = root / "system" / "usr"
    options = ["-O1", "-rdynamic", f"-I{usr / 'include'}", f"-L{root / 'system' / LIBRARIES}", "-l:libOpenCL.so.1"]
    command = ["aarch64-linux-gnu-gcc", "-o", root / "compile_kernels", PROGRAM, *options]
    subprocess.run(command, check=True)


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
            raise EdgeTransactError(
                f"Debian's arm64 packages can't be had: {run.stderr[-500:]}", fix="Check the network and the mirror."
            )
    return sorted((directory / "var/cache/apt/archives").glob("*.deb"))


def main() -> None:
    """Print what each compiler makes of each file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesa", description=__doc__)
    parser.add_argument("--gpu", choices=GPUS, help="one of them; by default, all")
    parser.add_argument("--listing", action="store_true", help="print what the driver prints, too")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.cl")
    arguments = parser.parse_args()
    sources = {path.name: path.read_text() for path in arguments.files}
    for name in [arguments.gpu] if arguments.gpu else GPUS:
        for file, text in printed_by_driver(GPUS[name], sources).items():
            if arguments.listing:
                print(text)
            code = GPUS[name].parse(text)
            print(
                f"{name} {file}: {code.instructions} instructions, longest loop {code.longest_loop}, "
                f"{code.registers} registers, {code.threads} threads, {code.spills} spills, {dict(code.memory)}"
            )


if __name__ == "__main__":
    main()
