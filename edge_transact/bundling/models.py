"""``models.json``: what an app knows about its models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edge_transact.benchmarking.records.tuned import Setting
from edge_transact.reading import checked, parsed, read_bytes

MODELS_JSON = "edge/models.json"
"""Its place in an app's assets, beside the models' files in ``edge/ID/``."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelFile(_Record):
    """A file in a model's directory on the phone: name, size, and sha256 in hex."""

    path: str
    bytes: int
    sha256: str


class AppModel(_Record):
    """A model of an app.

    Attributes:
        libraries: Target to the name that MLC's engine looks up, as ``system://NAME``; at least one.
        memory_bytes: Target to `costs.memory_bytes` for one sequence, MLC's ``estimated_vram_bytes``.
        tuned: Chip, as Android names it, to what ``bench --tune`` found best for answers on it.
        weights: Where the files come from: the app itself, an asset pack that is installed with it (``pack``) or that
            Google Play brings after it, the server below `url`, or adb (``install``).
    """

    id: str
    name: str
    digest: str
    libraries: Mapping[str, str]
    memory_bytes: Mapping[str, int]
    tuned: Mapping[str, Setting]
    context_window_size: int
    prefill_chunk_size: int
    weights: Literal["assets", "pack", "fast-follow", "download", "install"]
    pack: str | None = None
    url: str | None = None
    files: Sequence[ModelFile]

    @property
    def directory(self) -> PurePosixPath:
        """Its directory in a project, and in an app's own files on a phone."""
        return PurePosixPath("models") / self.id

    @property
    def assets(self) -> PurePosixPath | None:
        """Its directory in a project's assets: the app's, or those of its asset pack."""
        module = "app" if self.weights == "assets" else self.pack
        return PurePosixPath(module) / "src/main/assets/edge" / self.id if module else None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class AppModels(_Record):
    models: Sequence[AppModel]

    def text(self) -> str:
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> AppModels:
        """Reads ``models.json``; `EdgeTransactError` if this version can't."""
        return checked(cls, parsed(text, where, BUNDLE), where, BUNDLE)

    @classmethod
    def of_project(cls, project: Path) -> AppModels:
        """The models of a project that `bundle` wrote."""
        path = project / ASSETS / MODELS_JSON
        return cls.parse(read_bytes(path, BUNDLE), str(path))


BUNDLE = "Bundle the app again."

ASSETS = Path("app/src/main/assets")
"""A project's assets."""


def files_digest(files: Sequence[ModelFile]) -> str:
    """The sha256 over a line of sha256, size and name for each file, in order of names."""
    lines = [f"{file.sha256} {file.bytes} {file.path}\n" for file in sorted(files, key=lambda file: file.path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
