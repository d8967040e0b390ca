"""The table of licences: what the package needs at run time, as installed packages say it."""

from importlib.metadata import metadata
from pathlib import Path
from tomllib import loads

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/lab/licences.md"


def licence_of(package: str) -> str:
    """The SPDX expression, or the classifier, or the first line of the licence that a package names."""
    about = metadata(package)
    classifiers = [each.split(" :: ")[-1] for each in about.get_all("Classifier", []) if each.startswith("License")]
    named = about.get("License-Expression") or ", ".join(classifiers)
    return named or (about.get("License") or "none named").split("\n")[0]


def page() -> str:
    """The page, in Markdown."""
    needed = loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = sorted(Requirement(each).name.lower() for each in needed)
    rows = [f"| {name} | {licence_of(name)} |" for name in names]
    head = """# Licences

**In short:** packages that edge-transact needs directly, and the licences that their metadata names: all permissive.

`python -m tools.licences` writes this page.

| package | licence |
|---|---|"""
    return "\n".join([head, *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
