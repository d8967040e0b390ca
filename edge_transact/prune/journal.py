"""What a pruning has done so far, on disk beside its output, so that it goes on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file

from edge_transact.errors import UsageError
from edge_transact.progress import step


class Journal:
    """Named groups of tensors in a directory; each is written whole or not at all.

    It also keeps memory bounded: what a pass over the layers leaves for a later one lies here, not in memory.

    Args:
        output: What is being made; the journal is ``.NAME.prune`` beside it, and made when something is put there.
        options: Everything that the work depends on, JSON values by option name.
        resume: Whether to go on with what an earlier run left; otherwise that is removed.

    Raises:
        UsageError: The earlier run had other options.
    """

    def __init__(self, output: Path, options: Mapping[str, Any], *, resume: bool) -> None:
        self._directory = output.parent / f".{output.name}.prune"
        self._options = json.loads(json.dumps(options))
        self._is_new = not resume
        if not resume:
            if self._directory.is_dir():
                step(f"Starting again; --resume would go on with what is in {self._directory}.")
        elif (self._directory / "options.json").is_file():
            self._check(json.loads((self._directory / "options.json").read_text()))
            step(f"Going on with what is in {self._directory}.")
        else:
            step("Nothing to resume: starting from the beginning.")

    def _check(self, before: dict[str, Any]) -> None:
        for name, value in self._options.items():
            if before.get(name) != value:
                raise UsageError(
                    f"--resume with other options: {name} was {before.get(name)}, now it is {value}",
                    fix="Give the options of the run that was interrupted, or leave out --resume to start again.",
                )

    def __contains__(self, name: str) -> bool:
        return not self._is_new and self._file(name).is_file()

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        # Read, not mapped: mapped pages would count as this process's memory.
        return load(self._file(name).read_bytes())

    def __setitem__(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        if self._is_new:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._is_new = False
        if not self._directory.is_dir():
            self._directory.mkdir(parents=True)
            (self._directory / "options.json").write_text(json.dumps(self._options))
        beside = self._file(name).with_suffix(".part")
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, beside)
        beside.rename(self._file(name))

    def discard(self, name: str) -> None:
        """Forgets a group, if there is one."""
        self._file(name).unlink(missing_ok=True)

    def close(self) -> None:
        """The work is done: the directory goes."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.safetensors"
