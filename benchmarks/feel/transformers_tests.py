"""How many of transformers' own tests of a model ours passes, next to LLaMA."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from benchmarks import page
from tests.support.transformers_suite import CLASSES, VARIANTS, exceptions, run


def measure(scratch: Path) -> str:
    """The section ``transformers_tests``: a row for LLaMA and for each kind of widths.

    Raises:
        SystemExit: A test fails that isn't excepted.
    """
    rows, reasons = [], {}
    for variant in (None, *VARIANTS):
        outcome, excepted = run(variant, CLASSES), exceptions(variant)
        if unexpected := outcome.failed.keys() - excepted.keys():
            raise SystemExit(f"{variant or 'LLaMA'} fails {', '.join(sorted(unexpected))}")
        reasons |= {name: excepted[name] for name in outcome.failed}
        name = f"`edge_llama`, {variant}" if variant else "`llama`"
        rows.append([name, *(f"{len(group)}" for group in (outcome.passed, outcome.skipped, outcome.failed))])
    listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
    tests = f"transformers {version('transformers')}, {', '.join(CLASSES)}"
    return f"{page.table(['model', 'pass', 'skipped', 'excepted'], rows)}\n\n{tests}. Excepted: {listed}."
