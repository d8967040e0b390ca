"""What the tests are installed from: every package of the extra `test`, in one release and by hash."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tomllib import loads

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKED = ROOT / "tests/locked"
PROJECT = loads((ROOT / "pyproject.toml").read_text())["project"]


def entries(file: str) -> Iterator[tuple[Requirement, list[str]]]:
    """The requirements of a file that hold on this machine, each with its hashes."""
    lines = [line for line in (LOCKED / file).read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        requirement, *hashes = line.split("--hash=")
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate():
            yield parsed, [each.strip() for each in hashes]


def needed(requirements: list[str]) -> Iterator[Requirement]:
    """Requirements of this machine, with those of the project's own extras."""
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                yield from needed(PROJECT["optional-dependencies"][extra])
        elif requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def releases() -> dict[str, Version]:
    """The one release that each package is locked to."""
    all_ = [each for file in LOCKED.glob("*.txt") if file.name != "excluded.txt" for each in entries(file.name)]
    locked = {canonicalize_name(each.name): Version(str(each.specifier).removeprefix("==")) for each, _ in all_}
    assert len(locked) == len(all_), "one release of a package"
    return locked


@pytest.mark.parametrize("file", ["requirements.txt", "uv.txt"])
def test_every_release_is_exact_and_has_hashes(file):
    for requirement, hashes in entries(file):
        assert [each.operator for each in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(each.startswith("sha256:") and len(each) == 71 for each in hashes), requirement


@pytest.mark.parametrize("extra", ["test", "demo"])
def test_what_pyproject_asks_for_is_locked(extra):
    locked = releases()
    wanted = [*needed(PROJECT["dependencies"]), *needed(PROJECT["optional-dependencies"][extra])]
    missing = [
        str(each) for each in wanted if not each.specifier.contains(locked.get(canonicalize_name(each.name), "0"))
    ]
    assert missing == [], "`make lock` writes tests/locked/requirements.txt anew"


def test_what_is_locked_is_installed():
    """Builds of one release differ in the part after the plus sign, as torch's do."""
    others = {name: version(name) for name, each in releases().items() if Version(version(name)).public != each.public}
    assert others == {}, "`make test` installs what is locked"


def test_no_file_names_a_machine():
    for path in LOCKED.iterdir():
        assert not any(word in path.read_text() for word in ("://", "file:", "--index", "--find-links")), path
