"""``python -m benchmarks.feel [SECTION...]``: measures what a person waits for, and writes ``docs/lab/feel.md``.

A section is a module beside this one with ``measure(scratch: Path) -> str``, which returns the section's Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import tempfile
from pathlib import Path

from benchmarks import feel, page
from edge_transact.cli.logs import show_logs

SECTIONS = sorted(module.name for module in pkgutil.iter_modules(feel.__path__) if module.name != "__main__")


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feel", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"all, or some of: {', '.join(SECTIONS)}")
    parser.add_argument("--scratch", type=Path, help="directory for models and libraries; kept if given")
    parser.add_argument("--page", type=Path, default=page.LAB / "feel.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    show_logs(package="benchmarks")
    with tempfile.TemporaryDirectory(prefix="edge-transact-feel-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for section in arguments.sections or SECTIONS:
            text = importlib.import_module(f"benchmarks.feel.{section}").measure(scratch)
            print(text, flush=True)
            page.write(section, text, arguments.page)


if __name__ == "__main__":
    main()
