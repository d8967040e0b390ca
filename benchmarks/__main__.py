"""``python -m benchmarks``, or ``make bench``: measures speed on this machine and writes ``docs/lab/performance.md``.

Nothing here has a threshold. Programs that are compared alternate, so their ratio is more reliable than their seconds.
The machine should still be idle otherwise.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import page
from edge_transact.cli.logs import show_logs
from edge_transact.errors import EdgeTransactError

logger = logging.getLogger("benchmarks")

SECTIONS = {
    "llama_cpp": "SmolLM2, dense and pruned, next to llama.cpp built for this machine",
    "smollm2": "SmolLM2, dense and pruned, next to this machine's limits",
    "large": "two layers of LLaMA-2-7B's shape, which no cache holds, with random weights",
    "shapes": "the paper's shapes, with random weights",
    "conversion": "conversion of weights to shards",
    "arm": "the loops on phones, counted and modelled, next to llama.cpp's",
    "builds": "complete builds of SmolLM2",
}


CPU_SECTIONS = ("llama_cpp", "smollm2", "large")
"""The sections that can be measured with the instructions of another CPU. The page has a table for each."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        scratch: Directory for models and libraries.
        threads: Threads of each program.
        repetitions: Measured rounds, after one that warms up.
        full_depth: Measure the paper's shapes with all their layers.
        cpu: The CPU, by LLVM's name, whose instructions programs and limits may use; `None` for this machine's.
    """

    scratch: Path
    threads: int
    repetitions: int
    full_depth: bool
    cpu: str | None = None


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", help="; ".join(f"{name}: {what}" for name, what in SECTIONS.items()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--full-depth", action="store_true", help="the paper's shapes with all layers (8 GB of disk)")
    parser.add_argument("--cpu", choices=("haswell", "alderlake"), help="use no instructions but this CPU's")
    parser.add_argument("--scratch", type=Path, help="directory for models and libraries; kept if given")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="the page to write the tables into")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    sections = arguments.sections or (CPU_SECTIONS if arguments.cpu else SECTIONS)
    if arguments.cpu and set(sections) - set(CPU_SECTIONS):
        parser.error(f"--cpu goes with {' and '.join(CPU_SECTIONS)} alone")
    os.environ["OMP_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    show_logs()
    show_logs(package="benchmarks")
    with tempfile.TemporaryDirectory(prefix="edge-transact-bench-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        options = Options(
            scratch.resolve(), arguments.threads, arguments.repetitions, arguments.full_depth, arguments.cpu
        )
        for section in sections:
            logger.info(f"{section}: {SECTIONS[section]}")
            about = page.machine(options.threads)
            try:
                text = importlib.import_module(f"benchmarks.{section}").measure(options)
            except EdgeTransactError as error:
                logger.warning(f"{section} is skipped: {error.message}. {error.fix}")
                continue
            print(text, end="\n\n", flush=True)
            page.write(f"{section} {options.cpu}" if options.cpu else section, f"{text}\n\n{about}", arguments.page)


if __name__ == "__main__":
    main()
