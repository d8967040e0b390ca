"""Writes safetensors shards as they fill up, so that memory never holds the whole model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_SHARD_BYTES = 1 << 30
"""The most bytes of a shard, and so of memory while a checkpoint is written: 1 GiB."""


def write_shards(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> torch.dtype:
    """Writes ``model.safetensors``, or several ``model-0000i-of-0000n.safetensors`` and their index.

    Args:
        tensors: Each tensor once, in any order. Memory holds at most one shard of them.
        max_shard_bytes: The most bytes of a file, unless one tensor is larger.

    Returns:
        The floating-point dtype that most bytes have.

    Raises:
        ValueError: `tensors` are not those of `shapes`.
    """
    from safetensors.torch import save_file

    missing = dict(shapes)
    dtype_bytes: Counter[torch.dtype] = Counter()
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    pending_bytes = 0

    def flush() -> None:
        nonlocal pending_bytes
        save_file(pending, directory / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()
        pending_bytes = 0

    for name, tensor in tensors:
        if missing.get(name) != tuple(tensor.shape):
            raise ValueError(f"{name} {list(tensor.shape)}: the plan has {missing.get(name, 'no such tensor left')}")
        del missing[name]
        dtype_bytes[tensor.dtype] += tensor.nbytes
        if pending and pending_bytes + tensor.nbytes > max_shard_bytes:
            flush()
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
    if missing:
        raise ValueError(f"{len(missing)} tensors of the plan were not given, {next(iter(missing))} among them")
    flush()

    # Each file's name has the number of shards, which is known only now.
    if len(shards) == 1:
        (directory / "0.safetensors").rename(directory / "model.safetensors")
    else:
        weight_map: dict[str, str] = {}
        for index, names in enumerate(shards):
            file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
            (directory / f"{index}.safetensors").rename(directory / file)
            weight_map |= dict.fromkeys(names, file)
        content = {"metadata": {"total_size": dtype_bytes.total()}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
    return max((dtype for dtype in dtype_bytes if dtype.is_floating_point), key=dtype_bytes.__getitem__)
