"""``manifest.json``: what a DIST is, what it was checked for, and the sha256 of every file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError, closest
from edge_transact.widths import LayerWidths, WidthPlan

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The record of one build.

    Attributes:
        source: The MODEL that was built, as it was given.
        model_type: The name under which the definition registers itself.
        model_lib: The library's name, in file names, in the system-lib prefix and in ``mlc-chat-config.json``.
        quantization: One for all libraries.
        context_window_size: Tokens that a sequence may have.
        prefill_chunk_size: Tokens that one prefill call takes at most.
        max_batch_size: Sequences at once.
        plan: The widths, and what all layers share.
        parameters: Parameters before quantization.
        weights_bytes: Bytes of all shards.
        libraries: Target to path, relative to the DIST.
        parity: What `edge_transact.build.parity` measured.
        versions: Package to version.
        files: Path relative to the DIST to sha256; all files but the manifest itself.
    """

    source: str
    model_type: str
    model_lib: str
    quantization: str
    context_window_size: int
    prefill_chunk_size: int
    max_batch_size: int
    plan: WidthPlan
    parameters: int
    weights_bytes: int
    libraries: Mapping[str, str]
    parity: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def bits_per_parameter(self) -> float:
        """Stored bits of one parameter, scales and padding of ragged groups included."""
        return 8 * self.weights_bytes / self.parameters

    def write(self, directory: Path) -> None:
        """Write ``manifest.json``, with the sha256 of every file that is in `directory` now."""
        values = {name: value for name, value in vars(self).items() if name not in ("plan", "files")}
        shared = asdict(self.plan)
        del shared["layers"]
        content = {
            **values,
            "bits_per_parameter": self.bits_per_parameter,
            "model": shared,
            "widths": self.plan.to_list(),
            "files": {name: sha256(directory / name) for name in _files(directory)},
        }
        (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of a DIST.

        Raises:
            EdgeTransactError: There is none, or it isn't one that this version reads.
        """
        path = directory / MANIFEST
        try:
            content = json.loads(path.read_text())
            plan = WidthPlan(**content["model"], layers=tuple(LayerWidths(**layer) for layer in content["widths"]))
            values = {item.name: content[item.name] for item in fields(cls) if item.name != "plan"}
            return cls(plan=plan, **values)
        except FileNotFoundError as error:
            raise not_a_dist(directory, MANIFEST) from error
        except (ValueError, KeyError, TypeError, EdgeTransactError) as error:
            raise EdgeTransactError(
                f"{path} cannot be read ({type(error).__name__}: {error})", fix="Build the model again."
            ) from error

    def verify(self, directory: Path, *patterns: str) -> None:
        """Check a DIST's files against their sha256.

        Args:
            directory: The DIST.
            patterns: Check only files whose paths match one of these; all without any.

        Raises:
            EdgeTransactError: A file is missing or was changed; the message names the first.
        """
        for name, expected in self.files.items():
            path = directory / name
            if patterns and not any(fnmatch(name, pattern) for pattern in patterns):
                continue
            if not path.is_file():
                raise EdgeTransactError(f"{path} is missing", fix="Copy the whole directory, or build it again.")
            if sha256(path) != expected:
                raise EdgeTransactError(f"{path} is not as it was built", fix="Copy it again, or build it again.")


def not_a_dist(directory: Path, lacking: str) -> EdgeTransactError:
    """The error of a command that was given something else where it wants a DIST."""
    if not directory.exists():
        beside = [path.name for path in directory.absolute().parent.glob("*/") if (path / MANIFEST).is_file()]
        build = f"Build it: edge-transact build MODEL --target host -o {directory}"
        return EdgeTransactError(f"{directory} does not exist", fix=closest(directory.name, beside) or build)
    if (directory / "config.json").is_file():
        build = f"Build it: edge-transact build {directory} --target host -o dist"
        return EdgeTransactError(f"{directory} is a checkpoint, not a DIST", fix=build)
    build = "Give a directory that `build` wrote, or make one: edge-transact build MODEL --target host -o dist"
    return EdgeTransactError(f"{directory} is not a DIST: it has no {lacking}", fix=build)


def _files(directory: Path) -> list[str]:
    paths = (path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return sorted(path.relative_to(directory).as_posix() for path in paths)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
