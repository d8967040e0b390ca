"""Parameter shards as TVM's tensor cache stores them (``tvm/contrib/tvmjs.py``, read by ``vm.builtin.tensor_cache``).

``params_shard_N.bin`` files hold raw little-endian tensors one after the other. ``tensor-cache.json`` has each tensor's
place, and the md5 of each file. fp32 tensors are stored as bf16, rounded to nearest even.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from edge_transact.artifacts.dist_files import TENSOR_CACHE
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import read_model

SHARD_BYTES = 32 << 20
"""The most bytes of a shard, unless a tensor is larger."""

_Size = Annotated[int, Field(ge=0, lt=1 << 62)]


class TensorRecord(BaseModel):
    """One tensor in the index, with TVM's fields in TVM's order; `dtype` is that at run time, `nbytes` as stored."""

    name: str
    shape: list[_Size]
    dtype: Literal["float32", "float16", "uint32", "int32"]
    format: Literal["f32-to-bf16", "raw"]
    nbytes: _Size
    byteOffset: _Size = 0

    @property
    def is_bf16(self) -> bool:
        return self.format == "f32-to-bf16" and self.dtype == "float32"

    @model_validator(mode="after")
    def _check(self) -> TensorRecord:
        if self.nbytes != math.prod(self.shape) * (2 if self.is_bf16 else np.dtype(self.dtype).itemsize):
            raise ValueError(f"{self.name} has {self.nbytes} bytes, which its shape and dtype contradict")
        return self


class ShardRecord(BaseModel):
    """One shard in the index, with TVM's fields in TVM's order."""

    dataPath: str
    format: Literal["raw-shard"] = "raw-shard"
    nbytes: int
    records: list[TensorRecord]
    md5sum: str = ""

    @model_validator(mode="after")
    def _check(self) -> ShardRecord:
        if Path(self.dataPath).name != self.dataPath:
            raise ValueError(f"{self.dataPath!r} is no file's name")
        for record in self.records:
            if record.byteOffset + record.nbytes > self.nbytes:
                raise ValueError(f"{record.name} ends beyond {self.dataPath}")
        return self


class TensorCacheMetadata(BaseModel):
    """MLC's addition to the index."""

    ParamSize: int
    ParamBytes: int | float  # MLC's own converter writes a float
    BitsPerParam: float


class TensorCache(BaseModel):
    metadata: TensorCacheMetadata | None = None
    records: list[ShardRecord]


class ShardWriter:
    """Writes tensors into shards, one at a time; a thread hashes a block and another writes it meanwhile."""

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._shards: list[ShardRecord] = []
        self._pending: list[TensorRecord] = []
        self._data = bytearray()
        self._names: set[str] = set()
        self._runtime_bytes = 0
        self._threads = ThreadPoolExecutor(2)
        self._working: list[Future[object]] = []

    def add(self, name: str, array: np.ndarray) -> None:
        self.add_blocks(name, array.shape, array.dtype, [array])

    def add_blocks(self, name: str, shape: Sequence[int], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
        """Append a tensor, of this dtype at run time, in blocks of rows, which the caller must not change later."""
        if name in self._names:
            raise ValueError(f"{name} was already added")
        self._names.add(name)
        values = math.prod(shape)
        nbytes = values * (2 if dtype == np.float32 else dtype.itemsize)
        self._runtime_bytes += values * dtype.itemsize
        record = TensorRecord(
            name=name, shape=list(map(int, shape)), dtype=str(dtype), format="f32-to-bf16", nbytes=nbytes
        )
        data = map(_stored_bytes, blocks)
        # TVM's rule, so that tensors end up in the same files as with MLC.
        if len(self._data) + nbytes >= self._shard_bytes:
            if 2 * nbytes >= self._shard_bytes:
                self._write(data, [record])
                return
            self._flush()
        record.byteOffset = len(self._data)
        self._pending.append(record)
        for block in data:
            self._data += block

    def finish(self, parameters: int) -> int:
        """Write the last shard and the index, for a model of so many parameters; returns the bytes of all shards."""
        self._flush()
        self._wait()
        self._threads.shutdown()
        index = TensorCache(
            metadata=TensorCacheMetadata(
                ParamSize=len(self._names),
                # MLC counts bytes at run time here: twice those in a shard for an fp32 tensor.
                ParamBytes=self._runtime_bytes,
                BitsPerParam=8 * self._runtime_bytes / parameters,
            ),
            records=self._shards,
        )
        (self._directory / TENSOR_CACHE).write_text(json.dumps(index.model_dump(), indent=2) + "\n")
        return sum(shard.nbytes for shard in self._shards)

    def _flush(self) -> None:
        if self._data:
            self._write([self._data], self._pending)
            self._data, self._pending = bytearray(), []

    def _write(self, blocks: Iterable[bytearray | memoryview], records: list[TensorRecord]) -> None:
        shard = ShardRecord(
            dataPath=f"params_shard_{len(self._shards)}.bin",
            nbytes=sum(record.nbytes for record in records),
            records=records,
        )
        self._shards.append(shard)
        digest = hashlib.md5(usedforsecurity=False)
        file = (self._directory / shard.dataPath).open("wb")

        def close() -> None:
            file.close()
            shard.md5sum = digest.hexdigest()

        try:
            for block in blocks:
                self._later(partial(digest.update, block), partial(file.write, block))
        finally:
            self._later(close)

    def _later(self, *work: Callable[[], object]) -> None:
        """Start work in the threads when they have finished their current work."""
        self._wait()
        self._working = [self._threads.submit(each) for each in work]

    def _wait(self) -> None:
        for each in self._working:
            each.result()


def _stored_bytes(array: np.ndarray) -> memoryview:
    """A tensor's bytes; float32 as bf16, nearest even, where finite values stay finite, as in TVM's writer."""
    array = np.ascontiguousarray(array)
    if array.dtype == np.float32:
        import torch

        limit = torch.finfo(torch.bfloat16).max
        array = torch.from_numpy(array).clamp(-limit, limit).to(torch.bfloat16).view(torch.int16).numpy()
    return array.reshape(-1).view(np.uint8).data


class ShardReader:
    """Reads parameters from a directory of shards, whose md5 is checked at the first read unless they are `verified`.

    An `EdgeTransactError` if the index is missing or invalid, or a shard is missing or has the wrong size.
    """

    def __init__(self, directory: Path, *, verified: bool = False) -> None:
        self._directory = directory
        path = directory / TENSOR_CACHE
        try:
            shards = read_model(TensorCache, path, "Build the model again.", "a tensor cache index").records
        except FileNotFoundError as error:
            raise EdgeTransactError(f"{path} does not exist", fix="Name a directory that `build` wrote.") from error
        self._records = {record.name: (shard, record) for shard in shards for record in shard.records}
        fix = "Copy the complete directory, or build it again."
        for file, nbytes in ((directory / shard.dataPath, shard.nbytes) for shard in shards):
            if not file.is_file():
                raise EdgeTransactError(f"{file} does not exist", fix=fix)
            if (size := file.stat().st_size) != nbytes:
                raise EdgeTransactError(f"{file} has {size} bytes, {TENSOR_CACHE} says {nbytes}", fix=fix)
        self._checked = {shard.dataPath for shard in shards if verified}
        self._mapped: dict[str, np.ndarray] = {}

    def names(self) -> list[str]:
        """The parameters' names, in the order in which they were written."""
        return list(self._records)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._record(name)[1].shape)

    def dtype(self, name: str) -> np.dtype:
        """A parameter's dtype at run time."""
        return np.dtype(self._record(name)[1].dtype)

    def array(self, name: str) -> np.ndarray:
        """A parameter in its dtype at run time; an `EdgeTransactError` if there is none, or its shard is damaged."""
        array = np.empty(self.shape(name), self.dtype(name))
        self.read(name, array)
        return array

    def read(self, name: str, array: np.ndarray) -> None:
        """Read a parameter into a contiguous array of its shape and dtype. Raises the errors of `array`."""
        shard, record = self._record(name)
        path = self._directory / shard.dataPath
        with path.open("rb", buffering=0) as file:
            if path.name not in self._checked:
                self._check_md5(path, file, shard.md5sum)
            file.seek(record.byteOffset)
            if record.is_bf16:
                stored = np.empty(array.shape, "<u2")
                self._fill(path, file, stored)
                np.left_shift(stored, 16, out=array.view(np.uint32), dtype=np.uint32)
            else:
                self._fill(path, file, array)

    @staticmethod
    def _fill(path: Path, file: FileIO, array: np.ndarray) -> None:
        data = array.reshape(-1).view(np.uint8).data
        while data:  # the system reads 2 GiB at most
            if not (count := file.readinto(data)):
                raise EdgeTransactError(f"{path} ends too early", fix="Copy it again, or build the model again.")
            data = data[count:]

    def mapped(self, name: str, alignment: int) -> np.ndarray | None:
        """A parameter mapped from its shard, not to be written to; `None` if it is bf16, or not so aligned in bytes."""
        shard, record = self._record(name)
        if record.is_bf16 or record.byteOffset % alignment or not record.nbytes:
            return None
        path = self._directory / shard.dataPath
        if path.name not in self._mapped:
            with path.open("rb", buffering=0) as file:
                if path.name not in self._checked:
                    self._check_md5(path, file, shard.md5sum)
                # Private rather than read-only: numpy's dlpack exports no read-only arrays.
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._mapped[path.name] = np.frombuffer(pages, np.uint8)
        stored = self._mapped[path.name][record.byteOffset : record.byteOffset + record.nbytes]
        return stored.view(np.dtype(record.dtype)).reshape(record.shape)

    def _check_md5(self, path: Path, file: FileIO, md5: str) -> None:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest != md5:
            raise EdgeTransactError(
                f"{path} is damaged: its md5 is {digest}, {TENSOR_CACHE} says {md5}",
                fix="Copy the file again, or build the model again.",
            )
        self._checked.add(path.name)

    def _record(self, name: str) -> tuple[ShardRecord, TensorRecord]:
        if name not in self._records:
            raise EdgeTransactError(
                f"{self._directory / TENSOR_CACHE} has no parameter {name!r}",
                fix="Build the model again from its checkpoint.",
            )
        return self._records[name]
