"""The intermediate results of a run on disk, so that an interrupted run can go on, and memory stays bounded."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edge_transact.artifacts.digests import ends_in_digest
from edge_transact.costs import MEMORY_BYTES
from edge_transact.errors import EdgeTransactError

STATE_S = 30.0
"""Seconds between two writes of a run's state: the work that an interruption can cost."""

STATE_SHARE = 0.05
"""Of the time, at most as much goes to writing states: they are rarer where writing takes long."""

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}
"""Dtypes by their names in safetensors."""

_SUFFIX = ".safetensors"

_DIGEST = "sha256"
"""The last tensor of a file: the sha256 of all bytes before it."""

_MAPPING = "mapping"
"""The attribute that holds the memory map of a tensor in a file."""


class Journal:
    """Named groups of tensors in a directory; each group is complete or absent.

    The journal also bounds memory: what a pass over the layers leaves for a later one is kept here, and large tensors
    in files (`room`). Groups are safetensors files, read and written tensor by tensor, because the library would hold a
    second copy. Each ends in its sha256, which is compared whenever the group is read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._state_written_s, self._state_took_s = -math.inf, 0.0

    def __contains__(self, name: str) -> bool:
        return self.file(name).is_file()

    def names(self) -> list[str]:
        """The groups, in the order in which they were written."""
        files = sorted(self.directory.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime_ns)
        return [file.name.removesuffix(_SUFFIX) for file in files]

    def repair(self) -> list[str]:
        """Sets the first damaged group aside and removes those written since, which may continue from it.

        Returns their names. What stays is what an interruption before the damaged group would have left.
        """
        damaged = next((name for name in self.names() if not ends_in_digest(self.file(name))), None)
        if damaged is None:
            return []
        changed_ns = {name: self.file(name).stat().st_mtime_ns for name in self.names()}
        # A write also changes the directory: what changed later was changed by others, and may be of any age. Clocks
        # tick so rarely that several groups can have the same time.
        is_known = changed_ns[damaged] <= self.directory.stat().st_mtime_ns
        lost = [name for name, ns in changed_ns.items() if ns >= changed_ns[damaged] or not is_known]
        self.file(damaged).rename(self.file(damaged).with_suffix(".damaged"))
        for name in lost:
            self.discard(name)
        return [damaged, *(name for name in lost if name != damaged)]

    def room(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A new tensor with undefined values, beyond `MEMORY_BYTES` in a file; an `EdgeTransactError` if it's full."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes <= MEMORY_BYTES:
            return torch.empty(tuple(shape), dtype=dtype)
        directory = self.directory.parent
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            try:
                # Allocated at once, if possible: writing to a mapped page on a full disk would kill the process.
                getattr(os, "posix_fallocate", lambda fd, _, size: os.ftruncate(fd, size))(file.fileno(), 0, nbytes)
            except OSError as error:
                raise EdgeTransactError(
                    f"{directory} has no space for {nbytes / 2**30:.1f} GiB of hidden states: {error.strerror}",
                    fix="Free some space, or use fewer --calibration-tokens.",
                ) from error
            mapping = mmap.mmap(file.fileno(), nbytes)
        tensor = torch.frombuffer(mapping, dtype=dtype).view(tuple(shape))
        setattr(tensor, _MAPPING, mapping)
        return tensor

    def __getitem__(self, name: str) -> dict[str, torch.Tensor]:
        return dict(self.tensors(name))

    def tensors(self, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a group, each read when asked for; an `EdgeTransactError` at the end if it is damaged."""
        # Read and not mapped: mapped pages would count as this process's memory.
        with self.file(name).open("rb") as file:
            length = file.read(8)
            text = file.read(int.from_bytes(length, "little"))
            digest = hashlib.sha256(length + text)
            for key, entry in json.loads(text).items():
                if key != _DIGEST:
                    tensor = self.room(entry["shape"], DTYPES[entry["dtype"]])
                    file.readinto(_bytes(tensor))
                    digest.update(_bytes(tensor))
                    release(tensor)
                    yield key, tensor
            if file.read() != digest.digest():
                raise EdgeTransactError(
                    f"{file.name} is damaged", fix="Run the same command again: what is damaged is made again."
                )

    def __setitem__(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.file(name).with_suffix(".part")
        names = {dtype: dtype_name for dtype_name, dtype in DTYPES.items()}
        header, end = {}, 0
        for key, tensor in tensors.items():
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        digest = hashlib.sha256()
        header[_DIGEST] = {
            "dtype": "U8",
            "shape": [digest.digest_size],
            "data_offsets": [end, end + digest.digest_size],
        }
        text = json.dumps(header).encode()
        with partial.open("wb") as file:
            for part in (len(text).to_bytes(8, "little"), text):
                file.write(part)
                digest.update(part)
            for tensor in tensors.values():
                content = _bytes(whole(tensor).detach().cpu().contiguous())
                file.write(content)
                digest.update(content)
                release(tensor)
            file.write(digest.digest())
        partial.rename(self.file(name))

    def is_due(self) -> bool:
        """Whether it is time to write another state: one of a training is larger than its weights."""
        return time.monotonic() - self._state_written_s >= max(STATE_S, self._state_took_s / STATE_SHARE)

    def now_and_then(self, name: str, state: Mapping[str, torch.Tensor], *, last: bool) -> None:
        """Writes a state if it `is_due`, or if it is the last one."""
        if last or self.is_due():
            self.write_state(name, state)

    def write_state(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Writes a state, and notes when, for `is_due`."""
        started = time.monotonic()
        self[name] = state
        self._state_written_s = time.monotonic()
        self._state_took_s = self._state_written_s - started

    def note(self, name: str, value: object) -> None:
        """Writes a JSON value as a group."""
        self[name] = {"json": encoded(value)}

    def noted(self, name: str) -> Any:
        return decoded(self[name]["json"])

    def discard(self, name: str) -> None:
        self.file(name).unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        return self.directory / f"{name}{_SUFFIX}"


def encoded(value: object) -> torch.Tensor:
    """A JSON value as a tensor: its text, int8."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.int8)


def decoded(tensor: torch.Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with the parts that other processes have, if they share it: then all of them call this."""
    gathered: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def release(tensor: torch.Tensor) -> None:
    """Releases the memory of a tensor in a file, without losing its values; does nothing to other tensors."""
    if mapping := getattr(tensor, _MAPPING, None):
        mapping.madvise(mmap.MADV_DONTNEED)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data
