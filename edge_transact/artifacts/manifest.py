"""``manifest.json``: what a DIST is, what it was checked for, and the sha256 of every file in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PositiveInt
from pydantic.dataclasses import dataclass

from edge_transact.artifacts.digests import is_sealed, sha256
from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.artifacts.listing import files_beside, write_listing
from edge_transact.errors import EdgeTransactError, UsageError, closest
from edge_transact.reading import checked, parsed, read_bytes
from edge_transact.widths import MOST_LAYERS, WidthPlan

Size = Annotated[int, Field(gt=0, lt=1 << 31)]


class _Widths(BaseModel):
    model: dict[str, Any]
    widths: Annotated[list[dict[str, Any]], Field(max_length=MOST_LAYERS)]


@dataclass(frozen=True)
class Manifest:
    """The record of one build.

    Attributes:
        model_lib: The name of the model's libraries in file names and in ``mlc-chat-config.json``; what an engine looks
            up for each target is `compiler.targets.library_name`.
        rounding: How weights were rounded to 4 bits; `None` if they weren't. ``kept`` for a file's own codes, and
            ``kept+search`` if only some matrices had any.
        calibration: The text that rounding read, as a checkpoint's ``edge_transact.json`` describes it; `None` if it
            read none.
        device_profile: The phones' GPUs that libraries were checked for; `None` if none is for a GPU that varies, or if
            MLC's compiler made them.
        license: The licence that the model's card names.
        libraries: Target to path relative to the DIST.
        files: The sha256 of every file but the manifest, by path relative to the DIST.
    """

    source: str
    model_type: str
    model_lib: str
    quantization: str
    rounding: str | None
    calibration: Mapping[str, Any] | None
    context_window_size: Size
    prefill_chunk_size: Size
    max_batch_size: Size
    device_profile: str | None
    plan: WidthPlan
    parameters: PositiveInt
    weights_bytes: PositiveInt
    libraries: Mapping[str, str]
    parity: Mapping[str, Any]
    versions: Mapping[str, str]
    license: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def bits_per_parameter(self) -> float:
        """Stored bits per parameter, including scales and the padding of ragged groups."""
        return 8 * self.weights_bytes / self.parameters

    def answer(self) -> tuple[list[int], list[int]] | None:
        """The parity record's prompt and torch's greedy tokens; `None` if only some of the layers were compared."""
        parity = self.parity
        if parity.get("layers") != self.plan.num_hidden_layers or not parity.get("greedy_ids"):
            return None
        return checked(tuple[list[int], list[int]], [parity.get("prompt_ids"), parity["greedy_ids"]], MANIFEST)

    def write(self, directory: Path, known: Mapping[str, str] | None = None) -> None:
        """Writes ``manifest.json``, with the sha256 of every file in `directory`, itself included."""
        values = {name: value for name, value in vars(self).items() if name not in ("plan", "files")}
        shared = asdict(self.plan)
        del shared["layers"]
        content = {
            **values,
            "bits_per_parameter": self.bits_per_parameter,
            "model": shared,
            "widths": self.plan.to_list(),
        }
        write_listing(directory / MANIFEST, content, known)

    @classmethod
    def read(cls, directory: Path, target: str = "host") -> Manifest:
        """The manifest of a DIST; an `EdgeTransactError` if it lacks, was changed, or this version can't read it.

        Where there is no DIST, the advice is to build one for `target`.
        """
        path = directory / MANIFEST
        try:
            text = read_bytes(path)
        except FileNotFoundError as error:
            raise not_a_dist(directory, MANIFEST, target) from error
        if is_sealed(path) is False:
            raise changed(path)
        fix = "Build the model again."
        content = parsed(text, path, fix)
        widths = checked(_Widths, content, path, fix)
        try:
            plan = {**widths.model, "layers": widths.widths}
            manifest = checked(cls, {**content, "plan": plan}, path, fix)
        except UsageError as error:
            raise EdgeTransactError(f"{path} cannot be read ({error.message})", fix=fix) from error
        for name in (*manifest.files, *manifest.libraries.values()):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise EdgeTransactError(f"{path} cannot be read ({name} is outside the directory)", fix=fix)
        if others := sorted(set(manifest.libraries.values()) - set(manifest.files)):
            raise EdgeTransactError(f"{path} cannot be read (the library {others[0]!r} is none of its files)", fix=fix)
        return manifest

    def verify(self, directory: Path, *patterns: str) -> None:
        """Checks a DIST's files, or those that match names and globs, against their sha256.

        Raises:
            EdgeTransactError: A file is missing or was changed, or one that matches isn't in the manifest.
        """
        for check in self.checks(directory, *patterns):
            check()

    def checks(self, directory: Path, *patterns: str) -> list[Callable[[], None]]:
        """What `verify` does, file by file, for callers that have threads."""
        names = {*self.files, *(files_beside(directory / MANIFEST) if patterns else ())}
        return [
            partial(_check, directory / name, self.files.get(name))
            for name in sorted(names)
            if not patterns or name in patterns or any(fnmatch(name, pattern) for pattern in patterns)
        ]


def _check(path: Path, expected: str | None) -> None:
    if expected is None:
        raise EdgeTransactError(
            f"{path} is not in {MANIFEST}, so nothing tells whether it is the build's", fix="Remove it, or build again."
        )
    if not path.is_file():
        raise EdgeTransactError(f"{path} is missing", fix="Copy the complete directory, or build it again.")
    if sha256(path) != expected:
        raise changed(path)


def changed(path: Path) -> EdgeTransactError:
    """The error for a file of a DIST that isn't as the manifest says."""
    return EdgeTransactError(f"{path} changed after the build", fix="Copy it again, or build it again.")


def not_a_dist(directory: Path, lacking: str, target: str = "host") -> EdgeTransactError:
    """The error for a directory that should be a DIST and isn't: it lacks the file `lacking`."""
    name = str(directory)
    is_hub_id = len(directory.parts) == 2 and not directory.parent.exists()
    if name.startswith("demo:") or directory.suffix == ".gguf" or is_hub_id:
        build = f"Build it: edge-transact build {name} --target {target} -o dist"
        return EdgeTransactError(f"{name} is a model, not a DIST", fix=build)
    if not directory.exists():
        dists = [path.name for path in directory.absolute().parent.glob("*/") if (path / MANIFEST).is_file()]
        build = f"Build it: edge-transact build MODEL --target {target} -o {directory}"
        return EdgeTransactError(f"{directory} does not exist", fix=closest(directory.name, dists) or build)
    if (directory / "config.json").is_file():
        build = f"Build it: edge-transact build {directory} --target {target} -o dist"
        return EdgeTransactError(f"{directory} is a checkpoint, not a DIST", fix=build)
    build = f"Name a directory that `build` wrote, or make one: edge-transact build MODEL --target {target} -o dist"
    return EdgeTransactError(f"{directory} is not a DIST: it has no {lacking}", fix=build)
