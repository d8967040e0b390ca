"""``docs/performance.md``: prose by hand, and between comments the tables of the benchmarks; how figures look."""

from __future__ import annotations

import os
import platform
import re
import statistics
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_transact.system.memory import total_bytes

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
RESULTS = Path(__file__).parent / "results"
"""Measured rows and listings, from which the tables and pictures of the pages are made."""


LINE = 120
"""Characters of a line of the pages, tables apart."""


def write(section: str, text: str, page: Path = PAGE) -> None:
    """Replaces a section's tables in the page.

    Lines of prose are wrapped.

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
    """A Markdown table; the first column is text, the others are figures."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, and the least and the largest."""
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


def machine(threads: int) -> str:
    """A sentence about this machine, and how busy others keep it at the moment."""
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, {_cpu()}, {os.cpu_count()} CPUs, {total_bytes() / 2**30:.0f} GiB, "
        f"{platform.system()}; {threads} thread{'s' * (threads != 1)}; before the run, load average {load:.1f} "
        f"and {100 * busy_share():.0f} % of the CPUs' time taken by other work."
    )


def busy_share(seconds: float = 2.0) -> float:
    """The share of the CPUs' time that is spent on work or taken away while this process sleeps."""
    before = _cpu_times()
    time.sleep(seconds)
    (total, idle), (first_total, first_idle) = _cpu_times(), before
    return 1 - (idle - first_idle) / max(1, total - first_total)


def _cpu_times() -> tuple[int, int]:
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(times), times[3] + times[4]


def _cpu() -> str:
    """Name, and family and model where they say more: of one name, generations differ by half in what they multiply."""
    known = dict(re.findall(r"^(\w[\w ]*?)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    if "model name" not in known:
        return platform.machine()
    return f"{known['model name']} (family {known['cpu family']}, model {known['model']})"
