"""``python -m tools.affected [BASE]``: the test files that a change concerns first, for ``make check``.

Python files that import what changed, by a name or, for a template, by the name of its file; files that import those;
and so on until there are `ENOUGH` test files. From a module such as `edge_transact.widths` imports lead to every test,
so what is further away is left to ``make test``. The folder of tests for a changed package is always among them.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ENOUGH = 40

ALWAYS = ("tests/test_docs.py", "tests/test_suite.py", "tests/test_generated_docs.py")
"""Tests of pages and of the suite itself, which any change can break."""

FOLDERS = {"templates": "bundling", "android_bench": "benchmarking"}
"""Where the tests for files outside of the package are."""


def changed(base: str) -> list[str]:
    """The files that differ from where the branch left `base`, and those that git doesn't know yet."""
    fork = _git("merge-base", base, "HEAD")[0]
    return [*_git("diff", "--name-only", fork), *_git("ls-files", "--others", "--exclude-standard")]


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}. Name a commit to compare with: make check BASE=COMMIT")
    return done.stdout.splitlines()


@cache
def imported(file: str) -> frozenset[str]:
    """The modules that a file imports anywhere, by full names; of ``from a import b``, both ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


@cache
def python_files() -> tuple[str, ...]:
    """All Python files of the package, its tests and the programs beside it."""
    return tuple(name for name in _git("ls-files", "*.py") if (ROOT / name).is_file())


def importers(files: Iterable[str]) -> set[str]:
    """The Python files that import one of these Python files, or name one of these other files."""
    python = {file for file in files if file.endswith(".py")}
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in python}
    names = [Path(file).name.removesuffix(".j2") for file in {*files} - python]
    return {
        file
        for file in python_files()
        if imported(file) & modules or any(name in (ROOT / file).read_text() for name in names)
    }


def affected(files: Iterable[str]) -> list[str]:
    """The test files that changed files concern first, in the order of their names."""
    known, level = set(files), set(files)
    folders = {folder for file in known if (folder := _folder(file))}

    def found() -> set[str]:
        """Fixtures pass on what they import to all tests in their folder."""
        fixtures = {file.removesuffix("conftest.py") for file in known if file.endswith("/conftest.py")}
        below = tuple(folders | (fixtures - {"tests/"}))
        return {file for file in python_files() if _is_test(file) and (file in known or file.startswith(below))}

    while level and len(found()) < ENOUGH:
        level = importers(level) - known
        known |= level
    return sorted(found() | set(ALWAYS))


def _folder(file: str) -> str | None:
    first, *rest = file.split("/")
    inside = first == "edge_transact" and len(rest) > 1
    return f"tests/{rest[0]}/" if inside else f"tests/{FOLDERS[first]}/" if first in FOLDERS else None


def _is_test(file: str) -> bool:
    return file.startswith("tests/") and Path(file).name.startswith("test_")


if __name__ == "__main__":
    print("\n".join(affected(changed(sys.argv[1] if len(sys.argv) > 1 else "origin/main"))))
