"""SmolLM2 in llama.cpp, measured by its own ``llama-bench``, next to the host library, in turns.

llama.cpp's sources come in PyPI's sdist of ``llama-cpp-python``. They are compiled once, in six minutes on two
cores, and stay in the cache. Its model is the GGUF that `export` writes: the DIST's own codes and scales.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from benchmarks import page, subjects
from benchmarks.smollm2 import LENGTHS, RATIO, build_dist
from edge_transact.benchmarking.records.plan import prompt_ids
from edge_transact.cache import cache_directory
from edge_transact.errors import EdgeTransactError
from edge_transact.exporting.gguf import export_gguf
from edge_transact.progress import track

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

logger = logging.getLogger(__name__)

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
QUANTIZATION = "q4f16_0"
THREADS = (1, 2)
"""llama.cpp's, of which the better counts."""

WITHOUT = ("LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER")
WITHOUT += ("LLAMA_BUILD_APP", "LLAMA_USE_PREBUILT_UI", "BUILD_SHARED_LIBS")
AVX2 = dict.fromkeys(("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C"), True)
CPUS: dict[str | None, dict[str, bool]] = {
    None: {"GGML_NATIVE": True},
    "haswell": {"GGML_NATIVE": False, **AVX2, "GGML_AVX512": False, "GGML_AVX_VNNI": False},
    "alderlake": {"GGML_NATIVE": False, **AVX2, "GGML_AVX512": False, "GGML_AVX_VNNI": True},
}
"""CMake's options by the CPU whose instructions may be used; `None` for this machine's."""

PROMPT, DECODE = "prefill", "decode"
Speeds = dict[str, list[float]]
"""Tokens a second of each round, of `PROMPT` and `DECODE`."""


def measure(options: Options) -> str:
    """Measure, and return the section's table."""
    program = llama_bench(options.cpu)
    ours: dict[str, Speeds] = {}
    theirs: dict[str, dict[int, Speeds]] = {}
    with ExitStack() as stack:
        running = {}
        for name, pruned in (("dense", False), (f"pruned by {RATIO:.0%}", True)):
            model = build_dist(QUANTIZATION, pruned, options)
            file = options.scratch / f"{model.dist.name}.gguf"
            if not file.is_file():
                export_gguf(str(model.dist), file)
            library = model.dist / model.manifest.libraries["host"]
            subject = subjects.host(library, model.dist, options.threads)
            stack.callback(subject.close)
            running[name] = (subject, file)
            ours[name], theirs[name] = defaultdict(list), {threads: defaultdict(list) for threads in THREADS}
        prompt = prompt_ids(model.manifest.plan.vocab_size, LENGTHS.prefill_tokens)
        for subject, _ in running.values():
            subject.repetition(prompt, LENGTHS.decode_tokens)  # warms up, as llama-bench does by itself
        for number in track(range(options.repetitions), "measure SmolLM2 and llama.cpp"):
            # Every other round runs backwards, so that a drift affects both alike.
            turns = [(name, program_is_theirs) for name in running for program_is_theirs in (False, True)]
            for name, program_is_theirs in turns[:: -1 if number % 2 else 1]:
                subject, file = running[name]
                if program_is_theirs:
                    time.sleep(subjects.PAUSE_S)
                    for threads in THREADS:
                        for phase, speed in _benched(program, file, threads).items():
                            theirs[name][threads][phase].append(speed)
                else:
                    seconds = subject.repetition(prompt, LENGTHS.decode_tokens)
                    ours[name][PROMPT].append(LENGTHS.prefill_tokens / seconds["prefill_s"])
                    ours[name][DECODE].append((LENGTHS.decode_tokens - 1) / seconds["decode_s"])
    return f"{_table(ours, theirs)}\n\n{_about(options.repetitions, theirs)}"


def _benched(program: Path, model: Path, threads: int) -> dict[str, float]:
    """Tokens a second of a prompt, and of tokens that are decoded from an empty cache: one repetition after a first."""
    lengths = ["-p", str(LENGTHS.prefill_tokens), "-n", str(LENGTHS.decode_tokens)]
    command = [str(program), "-m", str(model), *lengths, "-t", str(threads), "-r", "1", "-o", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {DECODE if row["n_gen"] else PROMPT: row["avg_ts"] for row in json.loads(done.stdout)}


def _better(theirs: Mapping[int, Speeds], phase: str) -> int:
    """The number of threads with which llama.cpp is faster."""
    return max(theirs, key=lambda threads: statistics.median(theirs[threads][phase]))


def _table(ours: Mapping[str, Speeds], theirs: Mapping[str, Mapping[int, Speeds]]) -> str:
    rows = []
    for name, speeds in ours.items():
        cells = [name]
        for phase in (PROMPT, DECODE):
            peer = theirs[name][_better(theirs[name], phase)][phase]
            ratios = [a / b for a, b in zip(speeds[phase], peer, strict=True)]
            cells += [page.spread(speeds[phase]), page.spread(peer), page.spread(ratios, 2)]
        rows.append(cells)
    columns = [f"{phase} {column}" for phase in (PROMPT, DECODE) for column in ("tok/s", "llama.cpp", "ratio")]
    return page.table(["SmolLM2", *columns], rows)


def _about(rounds: int, theirs: Mapping[str, Mapping[int, Speeds]]) -> str:
    better = [
        f"{name}, {phase} with {_better(of_model, phase)}"
        for name, of_model in theirs.items()
        for phase in (PROMPT, DECODE)
    ]
    return (
        f"Medians of {rounds} rounds, with the lowest and highest; a ratio compares two speeds of the same round. Ours "
        f"decodes after the prompt, llama.cpp from an empty cache. llama.cpp of {PACKAGE} {VERSION} on the better "
        f"number of threads: {'; '.join(better)}."
    )


def llama_bench(cpu: str | None) -> Path:
    """The path of ``llama-bench``, which is compiled if it isn't in the cache.

    Args:
        cpu: One of `CPUS`.

    Raises:
        EdgeTransactError: cmake or ninja is missing, the sources can't be downloaded, or they don't compile.
    """
    root = cache_directory() / "llama.cpp"
    # One tree for all CPUs: only the kernels are compiled again.
    tree, program = root / f"build-{VERSION}", root / f"llama-bench-{VERSION}-{cpu or 'native'}"
    if program.is_file():
        return program
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            raise EdgeTransactError(f"{tool} is missing", fix="pip install cmake ninja")
    choices = dict.fromkeys(WITHOUT, False) | CPUS[cpu]
    flags = [f"-D{name}={'ON' if value else 'OFF'}" for name, value in choices.items()]
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / "build.lock"):
        logger.info(f"compile llama.cpp for {cpu or 'this machine'}: a few minutes")
        _run("cmake", "-S", sources(), "-B", tree, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", *flags)
        _run("cmake", "--build", tree, "--target", "llama-bench")
        shutil.copy2(tree / "bin" / "llama-bench", program)
    return program


def sources() -> Path:
    """The directory of llama.cpp's sources, which are downloaded to the cache if they aren't there."""
    root, name = cache_directory() / "llama.cpp", f"{PACKAGE.replace('-', '_')}-{VERSION}"
    sources = root / name / "vendor" / "llama.cpp"
    if not sources.is_dir():
        requirement = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
        _run(sys.executable, "-m", "pip", "download", "--quiet", *requirement, "--dest", root)
        with tarfile.open(root / f"{name}.tar.gz") as archive:
            archive.extractall(root, filter="data")
    return sources


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise EdgeTransactError(
            f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}", fix="Its output above says why."
        )
