"""Parameter shards as TVM's tensor cache stores them (``tvm/contrib/tvmjs.py``, read by ``vm.builtin.tensor_cache``).

``params_shard_N.bin`` files hold raw little-endian tensors one after the other; ``tensor-cache.json`` says where each
one lies, and the md5 of each file. fp32 tensors are stored as bf16, rounded to nearest even. The same tensors in the
same order give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_transact.errors import EdgeTransactError

INDEX = "tensor-cache.json"
SHARD_BYTES = 32 << 20
"""A shard's size at most, unless one tensor is larger."""


class ShardWriter:
    """Writes tensors into shards, one at a time; no more than one shard is held in memory, and one block of another.

    Of two threads one hashes a block and one writes it, while the next is made.

    Args:
        directory: An existing directory.
        shard_bytes: The size of a shard.
    """

    def __init__(self, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._shards: list[dict] = []
        self._pending: list[dict] = []
        self._data = bytearray()
        self._names: set[str] = set()
        self._runtime_bytes = 0
        self._threads = ThreadPoolExecutor(2)
        self._working: list[Future] = []

    def add(self, name: str, array: np.ndarray) -> None:
        """Append a tensor: `add_blocks` of one block."""
        self.add_blocks(name, array.shape, array.dtype, [array])

    def add_blocks(self, name: str, shape: Sequence[int], dtype: np.dtype, blocks: Iterable[np.ndarray]) -> None:
        """Append a tensor.

        Args:
            name: The parameter's name, given once.
            shape: Of the whole tensor.
            dtype: At run time: float16, float32 (stored as bf16), uint32, or another plain dtype.
            blocks: Its values, some rows at a time, which stay as they are; memory holds two blocks where the tensor
                fills a shard of its own.
        """
        if name in self._names:
            raise ValueError(f"{name} was already added")
        self._names.add(name)
        values = math.prod(shape)
        nbytes = values * (2 if dtype == np.float32 else dtype.itemsize)
        self._runtime_bytes += values * dtype.itemsize
        record = {
            "name": name,
            "shape": list(shape),
            "dtype": str(dtype),
            "format": "f32-to-bf16",
            "nbytes": nbytes,
            "byteOffset": 0,
        }
        data = map(_stored_bytes, blocks)
        # TVM's own rule, so that the same tensors land in the same files as MLC's.
        if len(self._data) + nbytes >= self._shard_bytes:
            if 2 * nbytes >= self._shard_bytes:
                self._write(data, [record])
                return
            self._flush()
        record["byteOffset"] = len(self._data)
        self._pending.append(record)
        for block in data:
            self._data += block

    def finish(self, parameters: int) -> int:
        """Write what is left, and the index.

        Args:
            parameters: How many parameters the model has before quantization, for MLC's ``BitsPerParam``.

        Returns:
            Bytes of all shards.
        """
        self._flush()
        self._wait()
        self._threads.shutdown()
        index = {
            "metadata": {
                "ParamSize": len(self._names),
                # MLC counts bytes at run time here, where an fp32 tensor takes twice what its shard holds.
                "ParamBytes": self._runtime_bytes,
                "BitsPerParam": 8 * self._runtime_bytes / parameters,
            },
            "records": self._shards,
        }
        (self._directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        return sum(shard["nbytes"] for shard in self._shards)

    def _flush(self) -> None:
        if self._data:
            self._write([self._data], self._pending)
            self._data, self._pending = bytearray(), []

    def _write(self, blocks: Iterable[bytearray | memoryview], records: list[dict]) -> None:
        shard: dict[str, Any] = {
            "dataPath": f"params_shard_{len(self._shards)}.bin",
            "format": "raw-shard",
            "nbytes": sum(record["nbytes"] for record in records),
            "records": records,
        }
        self._shards.append(shard)
        digest = hashlib.md5(usedforsecurity=False)
        file = (self._directory / shard["dataPath"]).open("wb")

        def close() -> None:
            file.close()
            shard["md5sum"] = digest.hexdigest()

        try:
            for block in blocks:
                self._later(partial(digest.update, block), partial(file.write, block))
        finally:
            self._later(close)

    def _later(self, *work: Callable[[], object]) -> None:
        """Do it in the threads, after what is in their hands."""
        self._wait()
        self._working = [self._threads.submit(each) for each in work]

    def _wait(self) -> None:
        for each in self._working:
            each.result()


def _stored_bytes(array: np.ndarray) -> memoryview:
    array = _to_bf16(array) if array.dtype == np.float32 else np.ascontiguousarray(array)
    return array.reshape(-1).view(np.uint8).data


class ShardReader:
    """Reads parameters back from a directory of shards, and checks what it reads.

    Sizes are checked on opening, the md5 of a shard when it is first read from: MLC's engine notices neither.

    Args:
        directory: Holds ``tensor-cache.json`` and the shards.

    Raises:
        EdgeTransactError: The index is missing or isn't one, or a shard is missing or of the wrong size.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = directory / INDEX
        try:
            index = json.loads(path.read_text())
            shards = index["records"]
            self._records = {record["name"]: (shard, record) for shard in shards for record in shard["records"]}
            for shard in shards:
                self._check_size(directory / shard["dataPath"], shard["nbytes"])
        except FileNotFoundError as error:
            raise EdgeTransactError(f"{path} does not exist", fix="Give a directory that `build` wrote.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EdgeTransactError(
                f"{path} is not a tensor cache index ({type(error).__name__}: {error})", fix="Build the model again."
            ) from error
        self._checked: set[str] = set()

    @staticmethod
    def _check_size(path: Path, nbytes: int) -> None:
        if not path.is_file():
            raise EdgeTransactError(f"{path} does not exist", fix="Copy the whole directory, or build it again.")
        if path.stat().st_size != nbytes:
            raise EdgeTransactError(
                f"{path} has {path.stat().st_size} bytes, {INDEX} says {nbytes}",
                fix="Copy the whole directory, or build it again.",
            )

    def names(self) -> list[str]:
        """The parameters, in the order in which they were written."""
        return list(self._records)

    def shape(self, name: str) -> tuple[int, ...]:
        """A parameter's shape, from the index alone."""
        return tuple(self._record(name)[1]["shape"])

    def array(self, name: str) -> np.ndarray:
        """A parameter in its run-time dtype: one that is stored as bf16 comes back as float32.

        Raises:
            EdgeTransactError: There is no such parameter, or its shard's md5 is wrong; the message names the file.
        """
        shard, record = self._record(name)
        path = self._directory / shard["dataPath"]
        if path.name not in self._checked:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if digest != shard["md5sum"]:
                raise EdgeTransactError(
                    f"{path} is damaged: its md5 is {digest}, {INDEX} says {shard['md5sum']}",
                    fix="Copy the file again, or build the model again.",
                )
            self._checked.add(path.name)
        shape = tuple(record["shape"])
        stored_bf16 = record["format"] == "f32-to-bf16" and record["dtype"] == "float32"
        dtype = np.dtype("<u2") if stored_bf16 else np.dtype(record["dtype"])
        data = np.fromfile(path, dtype, count=record["nbytes"] // dtype.itemsize, offset=record["byteOffset"])
        if stored_bf16:
            data = (data.astype(np.uint32) << 16).view(np.float32)
        return data.reshape(shape)

    def _record(self, name: str) -> tuple[dict, dict]:
        if name not in self._records:
            raise EdgeTransactError(
                f"{self._directory / INDEX} has no parameter {name!r}", fix="Build the model again from its checkpoint."
            )
        return self._records[name]


def _to_bf16(array: np.ndarray) -> np.ndarray:
    """float32 to the bits of bf16, nearest even; finite values stay finite, as in TVM's writer."""
    limit = torch.finfo(torch.bfloat16).max
    values = torch.from_numpy(np.ascontiguousarray(array)).clamp(-limit, limit)
    return values.to(torch.bfloat16).view(torch.int16).numpy()
