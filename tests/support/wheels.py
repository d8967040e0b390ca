"""Wheels in a directory, which pip and uv take as their index."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest


def write_wheel(directory: Path, package: str, version: str, files: Mapping[str, bytes], platform: str = "any") -> Path:
    """A wheel with the digests that a record has. It requires a package that doesn't exist."""
    name = f"{package.replace('-', '_')}-{version}"
    about = f"{name}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Dist: nowhere\n"
    tag = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-{platform}\n"
    files = {**files, f"{about}/METADATA": metadata.encode(), f"{about}/WHEEL": tag.encode()}
    record = "".join(f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items())
    path = directory / f"{name}-py3-none-{platform}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n".encode()}.items():
            archive.writestr(member, content)
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def only_index(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Lets pip and uv, in this process's children, find what is in a directory, and nothing else."""
    for program in ("PIP", "UV"):
        patch.setenv(f"{program}_NO_INDEX", "1")
        patch.setenv(f"{program}_FIND_LINKS", str(directory))
    patch.setenv("UV_CACHE_DIR", str(directory / "uv"))
