"""Packages of npm for tests."""

import subprocess
from pathlib import Path

from filelock import FileLock

from edge_transact.cache import cache_directory


def npm_packages(name: str, *packages: str) -> Path:
    """A directory of the cache with these packages, which npm installs once."""
    directory = cache_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "install.lock"):
        if not (directory / "node_modules").is_dir():
            (directory / "package.json").write_text("{}\n")
            # No scripts: they would download or compile, and the prebuilt binary is a package of its own. No optional
            # packages: those for other machines and for GPUs take ten times the space.
            flags = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"]
            command = ["npm", "install", *flags, *packages]
            subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
    return directory
