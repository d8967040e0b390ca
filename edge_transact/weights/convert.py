"""Converts a checkpoint's tensors to the definition's parameters, quantized and sharded, and back for checking.

Rows are read, joined and packed in blocks. Memory holds the largest packed parameter and one shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import is_finite
from edge_transact.checkpoint.layout import ROPE_PAIRS
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import Advance, bar
from edge_transact.quantization import Quantization
from edge_transact.weights import w4
from edge_transact.weights.shards import ShardReader, ShardWriter

Source = tuple[Sequence[str], Callable[..., np.ndarray]]
"""A parameter's checkpoint tensors, and the function that joins them, which only moves rows."""

ParameterSources = Mapping[str, Source]
"""MLC parameter name to `Source`, in the definition's order: the result of its ``parameter_sources``."""

RoundingOf = Callable[[str], w4.RoundRows]
"""From a parameter's name in the definition to how its rows are rounded."""


def convert_step(quantization: Quantization) -> str:
    return f"convert weights to {quantization.name}"


def convert(
    checkpoint: Checkpoint,
    sources: ParameterSources,
    quantization: Quantization,
    directory: Path,
    rounding_of: RoundingOf | None = None,
) -> int:
    """Write a checkpoint's weights as MLC parameter shards; returns their bytes, `costs.weight_bytes` of the plan.

    Matrices are packed if the quantization has 4 bits, by `w4.nearest` without `rounding_of`. Vectors have its model
    dtype, RoPE pairs int32. An `EdgeTransactError` names a parameter with a weight that isn't finite in that dtype.
    """
    writer = ShardWriter(directory)
    # Rounding that computes a lot uses every core; plain rounding is as fast as the disk.
    one_core = nullcontext() if rounding_of else _one_core_for_the_writer()
    count = sum(math.prod(checkpoint.shape(part)) for parts, _ in sources.values() for part in parts)
    with one_core, bar(convert_step(quantization), count) as advance:
        for name, source in sources.items():
            parameter = _Parameter(name, checkpoint, source, advance)
            try:
                if is_packed(name, parameter.shape, quantization):
                    _write_packed(parameter, quantization, writer, rounding_of and rounding_of(name))
                elif _is_table(name):
                    names, join = source
                    writer.add(name, join(*(checkpoint.tensor(part).numpy() for part in names)))
                else:
                    _write_plain(parameter, quantization, writer)
            except EdgeTransactError as error:
                raise EdgeTransactError(f"{name}: {error.message}", fix=error.fix) from error
    return writer.finish(costs.parameters(checkpoint.plan))


@contextmanager
def _one_core_for_the_writer() -> Iterator[None]:
    """Leave one core to the writer's threads, which torch's busily waiting threads would slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


BLOCK_BYTES = 8 << 20
"""Bytes of a checkpoint that are read at once, so few that the allocator reuses memory instead of mapping more."""


class _Parameter:
    """A parameter before quantization, with its joined shape, read from the checkpoint in blocks of rows."""

    def __init__(self, name: str, checkpoint: Checkpoint, source: Source, advance: Advance) -> None:
        self.name, self._checkpoint, self._parts, self._advance = name, checkpoint, source[0], advance
        shapes = {part: checkpoint.shape(part) for part in self._parts}
        self._order = _row_order(source, shapes)
        self._starts = np.cumsum([0, *(shapes[part][0] for part in self._parts)])
        self.shape = (len(self._order), *shapes[self._parts[0]][1:])

    def blocks(self) -> Iterator[torch.Tensor]:
        """The rows in order, in blocks of `BLOCK_BYTES`."""
        rows = max(1, BLOCK_BYTES // (2 * math.prod(self.shape[1:])))
        for start in range(0, len(self._order), rows):
            block = self._checkpoint.rows(self._pieces(self._order[start : start + rows]))
            yield block
            self._advance(block.numel())

    def _pieces(self, numbers: np.ndarray) -> list[tuple[str, int, int]]:
        """Split row numbers, counted over all parts, into runs of consecutive rows of one part."""
        parts = np.searchsorted(self._starts, numbers, side="right") - 1
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(parts) != 0)) + 1
        pieces = []
        for a, b in pairwise([0, *breaks, len(numbers)]):
            first = int(numbers[a] - self._starts[parts[a]])
            pieces.append((self._parts[parts[a]], first, first + int(b - a)))
        return pieces


def _row_order(source: Source, shapes: Mapping[str, Sequence[int]]) -> np.ndarray:
    """For each row of a joined parameter, its row number in the concatenated parts. A vector's elements are rows."""
    parts, join = source
    starts = np.cumsum([0, *(shapes[part][0] for part in parts)])
    tail = (1,) * (len(shapes[parts[0]]) - 1)
    return join(*(np.arange(a, b).reshape(-1, *tail) for a, b in pairwise(starts))).reshape(-1)


def _write_packed(
    parameter: _Parameter, quantization: Quantization, writer: ShardWriter, rounding: w4.RoundRows | None
) -> None:
    rows, columns = parameter.shape
    packer = w4.Packer(rows, columns, quantization, embedding=is_embedding(parameter.name), rounding=rounding)
    for block in parameter.blocks():
        packer.add(block)
    prefix = parameter.name.removesuffix("weight")
    for part, array in zip(("q_weight", "q_scale"), packer.finish(), strict=True):
        writer.add(f"{prefix}{part}", array)


def _write_plain(parameter: _Parameter, quantization: Quantization, writer: ShardWriter) -> None:
    def values() -> Iterator[np.ndarray]:
        for block in parameter.blocks():
            array = block.to(getattr(torch, quantization.model_dtype))
            if not is_finite(array):
                raise EdgeTransactError(
                    f"a weight is not finite in {quantization.model_dtype}",
                    fix="Check the checkpoint for NaN and infinite values, or use a quantization with float32.",
                )
            yield array.numpy()

    writer.add_blocks(parameter.name, parameter.shape, np.dtype(quantization.model_dtype), values())


def is_packed(name: str, shape: Sequence[int], quantization: Quantization) -> bool:
    """Whether a parameter with this name and shape (or one of its parts) is stored as 4-bit values and scales."""
    return quantization.bits is not None and len(shape) == 2 and not _is_table(name)


def _is_table(name: str) -> bool:
    """Whether a parameter is a layer's int32 table of RoPE pairs."""
    return name.endswith(f"{ROPE_PAIRS}.indices")


def is_embedding(name: str) -> bool:
    """Whether a parameter is the embedding, which is always stored output-major."""
    return name.endswith("embed_tokens.weight")


def restore(
    reader: ShardReader,
    sources: ParameterSources,
    shapes: Mapping[str, Sequence[int]],
    quantization: Quantization,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The inverse of `convert`: the checkpoint's tensors by name, float32 or int32 (RoPE pairs), dequantized."""
    for name, (parts, join) in sources.items():
        in_features = tuple(shapes[parts[0]])[1:]
        if is_packed(name, shapes[parts[0]], quantization):
            prefix = name.removesuffix("weight")
            joined = w4.dequantize(
                reader.array(f"{prefix}q_weight"),
                reader.array(f"{prefix}q_scale"),
                quantization,
                *in_features,
                embedding=is_embedding(name),
            )
        else:
            joined = reader.array(name)
        for part, original in split(joined, (parts, join), shapes):
            dtype = np.float32 if np.issubdtype(original.dtype, np.floating) else original.dtype
            yield part, torch.from_numpy(original.astype(dtype))


def split(joined: np.ndarray, source: Source, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Split a joined parameter, ``[rows, ...]``, into its checkpoint tensors by name; `shapes` are theirs."""
    parts, _ = source
    original = joined
    if len(parts) > 1:
        original = np.empty_like(joined)
        original[_row_order(source, shapes)] = joined
    starts = np.cumsum([0, *(shapes[part][0] for part in parts)])
    for part, (start, end) in zip(parts, pairwise(starts), strict=True):
        yield part, original[start:end]
