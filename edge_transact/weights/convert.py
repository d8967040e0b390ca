"""A checkpoint's tensors to the definition's parameters, quantized and sharded; and back again for checking.

Tensors are read, joined, packed and written one parameter at a time, so memory holds the largest parameter and a shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import ROPE_PAIRS
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import track
from edge_transact.quantization import Quantization
from edge_transact.weights import w4
from edge_transact.weights.shards import ShardReader, ShardWriter

Source = tuple[Sequence[str], Callable[..., np.ndarray]]
"""The checkpoint tensors that a parameter is made of, and the function that joins them: it moves rows, no more."""

ParameterSources = Mapping[str, Source]
"""MLC parameter name to `Source`, in the definition's parameter order: its ``parameter_sources(config)``."""


def convert(checkpoint: Checkpoint, sources: ParameterSources, quantization: Quantization, directory: Path) -> int:
    """Write a checkpoint's weights as MLC parameter shards.

    Args:
        checkpoint: What to read; one tensor is read at a time.
        sources: From the definition.
        quantization: Matrices are packed when it has bits; vectors stay in its model dtype, RoPE pairs int32.
        directory: An existing directory; gets ``tensor-cache.json`` and ``params_shard_*.bin``.

    Returns:
        Bytes of all shards, which is `costs.weight_bytes` of the plan.

    Raises:
        EdgeTransactError: A weight doesn't fit the model dtype; the message names it.
    """
    writer = ShardWriter(directory)
    for name, source in track(sources.items(), f"convert weights to {quantization.name}", total=len(sources)):
        for part, array in _runtime_arrays(name, _joined(checkpoint, source), quantization):
            writer.add(part, array)
    return writer.finish(costs.parameters(checkpoint.plan))


def _joined(checkpoint: Checkpoint, source: Source) -> torch.Tensor:
    names, join = source
    tensors = [checkpoint.tensor(name) for name in names]
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    # NumPy has no bf16, and joining only moves rows: it is done on the bits.
    bits = torch.int32 if dtype.itemsize == 4 else torch.int16
    joined = join(*(tensor.to(dtype).contiguous().view(bits).numpy() for tensor in tensors))
    return torch.from_numpy(np.ascontiguousarray(joined)).view(dtype)


def _runtime_arrays(name: str, weight: torch.Tensor, quantization: Quantization) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that a parameter becomes, as the engine sees them at run time."""
    try:
        if _is_packed(name, weight.shape, quantization):
            q_weight, q_scale = w4.quantize(weight, quantization, embedding=_is_embedding(name))
            prefix = name.removesuffix("weight")
            yield f"{prefix}q_weight", q_weight
            yield f"{prefix}q_scale", q_scale
            return
        array = weight.to(getattr(torch, quantization.model_dtype)) if weight.is_floating_point() else weight
        if not torch.isfinite(array).all():
            raise EdgeTransactError(
                f"a weight is not finite in {quantization.model_dtype}",
                fix="Check the checkpoint for NaN and infinite values, or use a quantization in float32.",
            )
        yield name, array.numpy()
    except EdgeTransactError as error:
        raise EdgeTransactError(f"{name}: {error.message}", fix=error.fix) from error


def _is_packed(name: str, shape: Sequence[int], quantization: Quantization) -> bool:
    return quantization.bits is not None and len(shape) == 2 and not name.endswith(f"{ROPE_PAIRS}.indices")


def _is_embedding(name: str) -> bool:
    return name.endswith("embed_tokens.weight")


def restore(
    reader: ShardReader,
    sources: ParameterSources,
    shapes: Mapping[str, Sequence[int]],
    quantization: Quantization,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors as the shards hold them: dequantized, and split again.

    Args:
        reader: The shards.
        sources: As given to `convert`.
        shapes: Checkpoint tensor name to shape.
        quantization: As given to `convert`.

    Yields:
        Checkpoint tensor name and its value, in float32 unless it is a table of RoPE pairs, in the order of `sources`.
    """
    for name, (parts, join) in sources.items():
        in_features = tuple(shapes[parts[0]])[1:]
        if _is_packed(name, shapes[parts[0]], quantization):
            prefix = name.removesuffix("weight")
            joined = w4.dequantize(
                reader.array(f"{prefix}q_weight"),
                reader.array(f"{prefix}q_scale"),
                quantization,
                *in_features,
                embedding=_is_embedding(name),
            )
        else:
            joined = reader.array(name)
        # Where each row went: join row numbers instead of rows. A vector's elements are its rows.
        lengths = [shapes[part][0] for part in parts]
        starts = np.cumsum([0, *lengths])
        tail = (1,) * len(in_features)
        rows = join(*(np.arange(a, b).reshape(-1, *tail) for a, b in pairwise(starts)))
        original = np.empty_like(joined)
        original[rows.reshape(-1)] = joined
        for part, (start, end) in zip(parts, pairwise(starts), strict=True):
            dtype = np.float32 if np.issubdtype(original.dtype, np.floating) else original.dtype
            yield part, torch.from_numpy(original[start:end].astype(dtype))
