"""Writes tables into ``docs/lab/performance.md``, whose prose is written by hand, and formats figures."""

from __future__ import annotations

import os
import platform
import re
import statistics
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from edge_transact.system.cpu import CPUINFO, cpu_name
from edge_transact.system.memory import total_bytes

DOCS = Path(__file__).parents[1] / "docs"
LAB = DOCS / "lab"
PAGE = LAB / "performance.md"
RESULTS = Path(__file__).parent / "results"
"""Measured rows and listings, from which the tables and pictures of the pages are made."""

LINE = 120
"""Length of the pages' lines, except tables."""


def write(section: str, text: str, page: Path = PAGE) -> None:
    """Replace a section's tables in the page. Prose is wrapped.

    Raises:
        ValueError: The page has no such section.
    """
    pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- end of {section} -->)", re.DOTALL)
    content, count = pattern.subn(lambda found: f"{found[1]}{_wrapped(text.strip())}\n{found[2]}", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has {count} sections {section}")
    page.write_text(content)


def _wrapped(text: str) -> str:
    def fill(line: str) -> str:
        return textwrap.fill(line, LINE, break_on_hyphens=False, break_long_words=False)

    return "\n".join(line if line.startswith("|") else fill(line) for line in text.split("\n"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose other columns are figures."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, minimum and maximum."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def machine(threads: int) -> str:
    """A sentence about this machine, and about how busy other programs keep it."""
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu()}, {os.cpu_count()} CPUs, {total_bytes() / 2**30:.0f} GiB, "
        f"{platform.system()}; {threads} thread{'s' * (threads != 1)}; before the run, load average {load:.1f} "
        f"and {100 * busy_share():.0f} % of the CPUs' time taken by other work."
    )


def busy_share(seconds: float = 2.0) -> float:
    """Share of the CPUs' time that other programs, or other virtual machines, use while this process sleeps."""
    return psutil.cpu_percent(interval=seconds) / 100


def cpu() -> str:
    """The CPU's name, and its family and model: generations under one name may differ by half in speed."""
    # By hand, because psutil reads neither.
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    known = dict(re.findall(r"^(cpu family|model)\s*: (.+)$", text, re.MULTILINE))
    generation = f" (family {known['cpu family']}, model {known['model']})" if len(known) == 2 else ""
    return cpu_name() + generation
