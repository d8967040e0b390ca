"""The Python packages that edge-transact requires, and their versions."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from edge_transact.doctor.check import Check, needed_for, verdict

DISTRIBUTION = "edge-transact"
_SOURCE_TREE = Path(__file__).resolve().parents[2] / "pyproject.toml"


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """The requirements of the package and of each extra, from pyproject.toml in a source tree, else from metadata."""
    if _SOURCE_TREE.is_file():
        project = tomllib.loads(_SOURCE_TREE.read_text())["project"]
        optional = project.get("optional-dependencies", {}).items()
        extras = {name: list(map(Requirement, lines)) for name, lines in optional}
        return list(map(Requirement, project["dependencies"])), extras
    requirements = list(map(Requirement, metadata.requires(DISTRIBUTION) or ()))

    def of(extra: str) -> list[Requirement]:
        return [each for each in requirements if each.marker and each.marker.evaluate({"extra": extra})]

    names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ()
    always = [each for each in requirements if each.marker is None] + of("")
    return always, {name: found for name in names if (found := of(name))}


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
    parts, suitable = [], []
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
            suitable.append(requirement.specifier.contains(version, prereleases=True))
            needs = "" if suitable[-1] else f" (needs {requirement.specifier})"
            parts.append(f"{requirement.name} {version}{needs}")
        except metadata.PackageNotFoundError:
            suitable.append(False)
            parts.append(f"{requirement.name} missing")
    return all(suitable), ", ".join(parts)


def install_command(package: str) -> str | None:
    """The command that installs a package with one of our extras; `None` if none has it."""
    for name, requirements in _requirements()[1].items():
        if needed_for(name) and package in (requirement.name for requirement in requirements):
            return _installs(name)
    return None


def _installs(extra: str) -> str:
    return f"python -m pip install '{DISTRIBUTION}[{extra}]'"


def packages() -> list[Check]:
    fix = f"python -m pip install --upgrade {DISTRIBUTION}"
    return [verdict("packages", *_state(_requirements()[0]), fix)]


def extras() -> list[Check]:
    found = _requirements()[1]
    return [verdict(name, *_state(_expanded(found, name)), _installs(name)) for name in found if needed_for(name)]
