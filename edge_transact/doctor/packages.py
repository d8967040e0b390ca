"""The Python packages that edge-transact requires, and their versions."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

from edge_transact.doctor.check import Check
from edge_transact.doctor.jobs import needed_for

DISTRIBUTION = "edge-transact"
_SOURCE_TREE = Path(__file__).resolve().parents[2] / "pyproject.toml"


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """The requirements of the package and of each extra, from pyproject.toml in a source tree, else from metadata."""
    if _SOURCE_TREE.is_file():
        project = tomllib.loads(_SOURCE_TREE.read_text())["project"]
        extras = project.get("optional-dependencies", {})
        return list(map(Requirement, project["dependencies"])), {
            name: list(map(Requirement, lines)) for name, lines in extras.items()
        }
    always: list[Requirement] = []
    extras = {}
    for requirement in map(Requirement, metadata.requires(DISTRIBUTION) or ()):
        names = [
            extra
            for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ()
            if requirement.marker and Marker(str(requirement.marker)).evaluate({"extra": extra})
        ]
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            always.append(requirement)
        for name in names:
            extras.setdefault(name, []).append(requirement)
    return always, extras


def _expanded(extras: Mapping[str, Sequence[Requirement]], name: str) -> Iterator[Requirement]:
    """The requirements of an extra, including those of our other extras that it names."""
    for requirement in extras[name]:
        if requirement.name == DISTRIBUTION:
            for other in sorted(requirement.extras):
                yield from _expanded(extras, other)
        else:
            yield requirement


def _state(requirements: Iterable[Requirement]) -> tuple[bool, str]:
    """Whether all are installed in a suitable version, and a list of names with versions."""
    parts, ok = [], True
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            parts.append(f"{requirement.name} missing")
            ok = False
            continue
        right = requirement.specifier.contains(version, prereleases=True)
        parts.append(f"{requirement.name} {version}" + ("" if right else f" (needs {requirement.specifier})"))
        ok &= right
    return ok, ", ".join(parts)


def install_command(package: str) -> str | None:
    """The command that installs a package with one of our extras; `None` if none has it."""
    for name, requirements in _requirements()[1].items():
        if needed_for(name) and package in (requirement.name for requirement in requirements):
            return f"python -m pip install '{DISTRIBUTION}[{name}]'"
    return None


def packages() -> list[Check]:
    """The packages that every job needs."""
    ok, found = _state(_requirements()[0])
    return [Check("packages", ok, found, "" if ok else f"python -m pip install --upgrade {DISTRIBUTION}")]


def extras() -> list[Check]:
    """The packages of each extra that a job needs."""
    checks = []
    extras = _requirements()[1]
    for name in extras:
        if not needed_for(name):
            continue
        ok, found = _state(_expanded(extras, name))
        checks.append(Check(name, ok, found, "" if ok else f"python -m pip install '{DISTRIBUTION}[{name}]'"))
    return checks
