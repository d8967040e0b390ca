"""``models.json``: what an app knows about its models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_transact.errors import EdgeTransactError, first_problem

MODELS_JSON = "edge/models.json"
"""Where it is among an app's assets. The files of a model are beside it, in ``edge/ID/``."""


class ModelFile(BaseModel):
    """A file of a model, in its directory on the phone.

    Attributes:
        path: Its name.
        bytes: Its size.
        sha256: Its sha256, in hex.
    """

    model_config = ConfigDict(extra="forbid")

    path: str
    bytes: int
    sha256: str


class AppModel(BaseModel):
    """A model of an app.

    Attributes:
        id: Its name in paths.
        name: Its name for people: any text.
        digest: `files_digest` of its files.
        libraries: Target to the name that MLC's engine looks up, as ``system://NAME``; at least one.
        memory_bytes: Target to `costs.memory_bytes` for one sequence, MLC's ``estimated_vram_bytes``.
        context_window_size: The most tokens of a sequence.
        prefill_chunk_size: The most tokens of one prefill call.
        weights: Whether its files travel in the app (``assets``), or over adb (``install``).
        files: Weights, configuration and tokenizer.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    digest: str
    libraries: Mapping[str, str]
    memory_bytes: Mapping[str, int]
    context_window_size: int
    prefill_chunk_size: int
    weights: Literal["assets", "install"]
    files: Sequence[ModelFile]

    @property
    def directory(self) -> PurePosixPath:
        """Where its files are in a project, and in an app's own files on a phone."""
        return PurePosixPath("models") / self.id

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


class AppModels(BaseModel):
    """The content of ``models.json``."""

    model_config = ConfigDict(extra="forbid")

    models: Sequence[AppModel]

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> AppModels:
        """Reads ``models.json``.

        Raises:
            EdgeTransactError: This version can't read it.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise EdgeTransactError(
                f"{where} cannot be read ({first_problem(error)})", fix="Bundle the app again."
            ) from error

    @classmethod
    def of_project(cls, project: Path) -> AppModels:
        """The models of a project that `bundle` wrote."""
        path = project / ASSETS / MODELS_JSON
        return cls.parse(path.read_bytes(), str(path))


ASSETS = Path("app/src/main/assets")
"""Where a project's assets are."""


def files_digest(files: Sequence[ModelFile]) -> str:
    """The sha256 over a line of sha256, size and name for each file, in the order of their names."""
    lines = [f"{file.sha256} {file.bytes} {file.path}\n" for file in sorted(files, key=lambda file: file.path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
