"""A model's tensors as GGUF stores them: a checkpoint's, cast, or a DIST's, with the same codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import is_finite
from edge_transact.checkpoint.layout import tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.gguf import q4_0
from edge_transact.gguf.layout import Place, put_columns
from edge_transact.quantization import Quantization
from edge_transact.weights import ShardReader, w4
from edge_transact.weights.convert import ParameterSources, Source, is_embedding, is_packed, split
from edge_transact.widths import WidthPlan

BLOCK_WEIGHTS = 4 << 20

TORCH_DTYPES = {Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}


def packed_bytes(place: Place, kind: Kind) -> int:
    size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(place.shape) // size * block_bytes


@dataclass(frozen=True)
class CheckpointTensors:
    """A checkpoint's tensors: vectors in float32, matrices in `kind`, or F16 if rows aren't whole blocks of Q8_0."""

    checkpoint: Checkpoint
    places: Mapping[str, Place]
    kind: Kind

    def kinds(self) -> Mapping[str, Kind]:
        """Each tensor's kind, by the checkpoint's name, in the order of `packed`."""
        size, _ = gguf.GGML_QUANT_SIZES[self.kind]

        def kind(place: Place) -> Kind:
            if len(place.shape) == 1:
                return Kind.F32
            return Kind.F16 if place.shape[1] % size else self.kind

        return {name: kind(place) for name, place in self.places.items()}

    def packed(self) -> Iterator[np.ndarray]:
        """The bytes of each GGUF tensor, uint8. An `EdgeTransactError` names one that isn't finite in `kind`."""
        for name, kind in self.kinds().items():
            yield cast(name, self.checkpoint.tensor(name), self.places[name], kind)


def cast(name: str, tensor: torch.Tensor, place: Place, kind: Kind) -> np.ndarray:
    """A GGUF tensor from values: rounded to `kind`, in which they must be finite, then put in its place."""
    if tensor.ndim == 1:
        return place.put_rows(tensor.float().numpy()).view(np.uint8)
    packed = np.empty((len(tensor), packed_bytes(place, kind) // place.shape[0]), np.uint8)
    step = max(1, BLOCK_WEIGHTS // place.shape[1])
    for start in range(0, len(tensor), step):
        block = tensor[start : start + step]
        if not is_finite(block.to(TORCH_DTYPES.get(kind, torch.float16))):
            raise EdgeTransactError(
                f"{name}: a weight is not finite in {kind.name}",
                fix="Check the checkpoint for NaN and infinite values, or use --type bf16 for values above 65504.",
            )
        packed[start : start + step] = _stored(block, place, kind)
    return place.put_rows(packed)


def _stored(block: torch.Tensor, place: Place, kind: Kind) -> np.ndarray:
    """Rows of `cast`, with all columns."""
    if kind in TORCH_DTYPES:
        values = block.to(TORCH_DTYPES[kind]).contiguous()
        bits = values.view(torch.int32 if kind == Kind.F32 else torch.int16).numpy()
        return np.ascontiguousarray(put_columns(bits, place.columns, place.shape[1])).view(np.uint8)
    wide = put_columns(block.float().numpy(), place.columns, place.shape[1])
    return gguf.quants.quantize(np.ascontiguousarray(wide), kind)


@dataclass(frozen=True)
class ShardTensors:
    """The tensors in MLC parameter shards.

    4-bit matrices become Q4_0 with the shards' codes and scales. If Q4_0 would split a group, because heads are padded
    or rows aren't a multiple of 32, a matrix gets the values that MLC's kernels multiply by, in the model's dtype.
    Unquantized matrices keep their dtype; vectors become float32.
    """

    reader: ShardReader
    sources: ParameterSources
    quantization: Quantization
    plan: WidthPlan
    places: Mapping[str, Place]

    def kinds(self) -> Mapping[str, Kind]:
        shapes = tensor_shapes(self.plan)
        return {
            part: self._kind(name, self.places[part], shapes[part])
            for name, (parts, _) in self.sources.items()
            for part in parts
            if part in self.places
        }

    def _kind(self, name: str, place: Place, shape: tuple[int, ...]) -> Kind:
        if len(shape) == 1:
            return Kind.F32
        if not is_packed(name, shape, self.quantization):
            return Kind.F16 if self.quantization.model_dtype == "float16" else Kind.BF16
        if place.keeps_groups and self.quantization.grid == q4_0.GRID:
            return Kind.Q4_0
        return Kind.F16 if self.quantization.model_dtype == "float16" else Kind.F32

    def packed(self) -> Iterator[np.ndarray]:
        shapes, kinds = tensor_shapes(self.plan), self.kinds()
        for name, source in self.sources.items():
            parts = [part for part in source[0] if part in kinds]
            if not parts:
                continue
            if Kind.Q4_0 in {kinds[part] for part in parts}:
                yield from self._blocks(name, source, shapes)
            else:
                for part, values in split(self._values(name, shapes[parts[0]]), source, shapes):
                    yield cast(part, torch.from_numpy(values), self.places[part], kinds[part])

    def _values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A parameter dequantized as in its kernels, in the model's dtype."""
        if not is_packed(name, shape, self.quantization):
            return self.reader.array(name)
        words, scales = self._words(name)
        return w4.dequantize(words, scales, self.quantization, shape[1], embedding=is_embedding(name))

    def _blocks(self, name: str, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
        words, scales = w4.output_major(*self._words(name), self.quantization, embedding=is_embedding(name))
        rows, groups = scales.shape
        blocks = np.empty((rows, groups, q4_0.BLOCK_BYTES), np.uint8)
        step = max(1, BLOCK_WEIGHTS // (groups * q4_0.BLOCK_WEIGHTS))
        for start in range(0, rows, step):
            part = slice(start, start + step)
            try:
                blocks[part] = q4_0.pack(w4.codes(words[part], self.quantization), scales[part])
            except EdgeTransactError as error:
                raise EdgeTransactError(f"{name}: {error.message}", fix=error.fix) from error
        for tensor, stored in split(blocks, source, shapes):
            place = self.places[tensor]
            wide = put_columns(stored, place.group_columns, place.shape[1] // q4_0.BLOCK_WEIGHTS)
            yield place.put_rows(wide.reshape(len(wide), -1))

    def _words(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        prefix = name.removesuffix("weight")
        return self.reader.array(f"{prefix}q_weight"), self.reader.array(f"{prefix}q_scale")


Tensors = CheckpointTensors | ShardTensors
