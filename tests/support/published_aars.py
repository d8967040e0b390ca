"""Libraries for Android that others have published, as folders of a Maven repository in packages of npm."""

import subprocess
import tarfile
from pathlib import Path

from filelock import FileLock

from edge_transact.cache import cache_directory

PUBLISHED = {"expo-av@16.0.8": "host.exp.exponent:expo.modules.av:16.0.8",
             "expo-task-manager@58.0.4": "host.exp.exponent:expo.modules.taskmanager:58.0.4"}  # fmt: skip
"""Packages, and the module in each: one with native libraries, one with rules for R8."""


def published_repository(package: str) -> Path:
    """The Maven repository in a package, which npm fetches once for a run; not what the package depends on."""
    directory = cache_directory() / "published-aars" / package
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{package}.lock")):
        if not (directory / "package").is_dir():
            subprocess.run(["npm", "pack", "--silent", package], cwd=directory, check=True, stdout=subprocess.DEVNULL)
            (packed,) = directory.glob("*.tgz")
            with tarfile.open(packed) as archive:
                inside = [each for each in archive if "/local-maven-repo/" in each.name]
                archive.extractall(directory, inside, filter="data")
    return directory / "package/local-maven-repo"
