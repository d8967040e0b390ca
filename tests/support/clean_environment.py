"""A virtual environment as a new user has it, in seconds rather than minutes."""

import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def clean_environment(directory: Path, *extras: str) -> Path:
    """The programs of a new environment in which the package's wheel is installed with some extras.

    What it requires is links to the tests' own installation, and nothing else that is there is in it: pip would install
    the same for minutes.
    """
    venv.create(directory)
    python = directory / "bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = directory.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(built)], check=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    for required in _required("edge-transact", extras):
        for name in {file.parts[0] for file in required.files or ()} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(str(required.locate_file(name)))
    return python.parent


def _required(name: str, extras: tuple[str, ...]) -> list[Distribution]:
    """What a package with extras requires, the package itself left out."""
    found: dict[tuple[str, str], Distribution] = {}
    asked = [(canonicalize_name(name), extra) for extra in ("", *extras)]
    while asked:
        package, extra = asked.pop()
        if (package, extra) in found:
            continue
        found[package, extra] = distribution(package)
        for requirement in map(Requirement, found[package, extra].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                asked += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return [each for (package, _), each in found.items() if package != name]
