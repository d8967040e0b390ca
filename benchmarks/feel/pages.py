"""Report pages in a browser: their bytes, what leaves the screen or the paper, and what axe-core finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import page
from tests.support.browser import LAPTOP, PAPER, PHONE, WIDE, chromium, findings, overflows, show
from tests.support.pages import comparison_page, eval_page, healed_page, pruned_page, rounded_page

MODEL = "demo:tiny"


def measure(scratch: Path) -> str:
    """The section ``pages``: the pages of all commands, and of a model as deep as Llama 3.1 405B."""
    rows = []
    with chromium() as browser:
        for name, file in _pages(scratch):
            shown = browser.new_page()
            shown.goto(file.as_uri())
            found, fits = 0, []
            for width in (PHONE, LAPTOP, WIDE, PAPER):
                show(shown, width)
                fits.append("overflows" if overflows(shown) else "fits")
            for width, scheme in ((PHONE, "light"), (LAPTOP, "dark")):
                show(shown, width, scheme)
                found += len(findings(shown))
            rows.append([name, f"{file.stat().st_size:,}", *fits, str(found)])
            shown.close()
    header = ["page", "bytes", f"{PHONE} px", f"{LAPTOP:,} px", f"{WIDE:,} px", "A4", "axe-core's findings"]
    return page.table(header, rows)


def _pages(scratch: Path) -> Iterator[tuple[str, Path]]:
    pruned, dist = scratch / "pruned", scratch / "dist"
    commands = {
        f"`prune {MODEL}`": ["prune", MODEL, "--ratio", "0.3", "-o", pruned],
        f"`build {MODEL}`": ["build", MODEL, "--target", "host", "-o", dist],
        "`bench` of that": ["bench", dist, "--lengths", "16+8,32+8", "--output", scratch / "log.jsonl"],
    }
    for number, (name, words) in enumerate(commands.items()):
        report = scratch / f"report-{number}"
        command = [sys.executable, "-m", "edge_transact", *map(str, words), "--report", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield name, report / "index.html"
    yield "`heal`, 1,000 steps", healed_page(scratch / "healed")
    yield "`bench compare`", comparison_page(scratch / "compared")
    yield "`eval`, three models", eval_page(scratch / "evaluated")
    yield "`prune`, 126 layers", pruned_page(scratch / "deep-pruned", 126)
    yield "`build`, 126 layers", rounded_page(scratch / "deep-rounded", 126)
