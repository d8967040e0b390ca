"""Loads a library's parameters from a DIST's shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_transact.errors import EdgeTransactError
from edge_transact.system import memory

if TYPE_CHECKING:
    import tvm_ffi

_ALIGNMENT = 64
"""Alignment of parameters in memory, in bytes, which kernels may rely on."""

MOST_READ_BYTES = 1 << 30
"""Weights of more bytes are mapped: reading those of a 7B model takes seconds, and memory that can't be dropped."""


def load_parameters(weights: Path, expected: list[dict[str, Any]], verified: bool) -> tvm_ffi.Array:
    """The library's parameters, `expected` by its metadata, as a TVM array, which calls take without a conversion.

    They are read into one block of memory with huge pages, in which a token is faster than in the small pages of mapped
    files. Without huge pages, or above `MOST_READ_BYTES`, parameters that are stored as kernels read them are mapped.
    An `EdgeTransactError` if one is missing or of another dtype or shape, or a shard is damaged and not `verified`.
    """
    import tvm_ffi

    from edge_transact.weights.shards import ShardReader

    reader = ShardReader(weights, verified=verified)
    mapped = not memory.has_huge_pages() or sum(map(_nbytes, expected)) > MOST_READ_BYTES
    arrays: list[np.ndarray | None] = []
    for parameter in expected:
        name, dtype, shape = parameter["name"], np.dtype(parameter["dtype"]), parameter["shape"]
        if list(reader.shape(name)) != shape or reader.dtype(name) != dtype:
            raise EdgeTransactError(
                f"{weights}: {name} is {reader.dtype(name)} {list(reader.shape(name))}, "
                f"the library wants {dtype} {shape}",
                fix="Library and weights are from different builds: build again.",
            )
        arrays.append(reader.mapped(name, _ALIGNMENT) if mapped else None)
    padded = (-(-_nbytes(parameter) // _ALIGNMENT) * _ALIGNMENT for parameter in expected)
    room = [0 if array is not None else nbytes for nbytes, array in zip(padded, arrays, strict=True)]
    block = np.empty(sum(room) + _ALIGNMENT, np.uint8)
    offset = -block.ctypes.data % _ALIGNMENT
    parameters = []
    for parameter, array, nbytes in zip(expected, arrays, room, strict=True):
        if array is None:
            place = block[offset : offset + _nbytes(parameter)]
            array = place.view(np.dtype(parameter["dtype"])).reshape(parameter["shape"])
            reader.read(parameter["name"], array)
            offset += nbytes
        parameters.append(tvm_ffi.from_dlpack(array, require_alignment=_ALIGNMENT, require_contiguous=True))
    return tvm_ffi.convert(parameters)


def _nbytes(parameter: Mapping[str, Any]) -> int:
    return math.prod(parameter["shape"]) * np.dtype(parameter["dtype"]).itemsize
