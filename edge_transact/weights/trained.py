"""The scales of a checkpoint that was trained with rounding to MLC's 4-bit grid: a file beside its rounded weights.

A weight is -7 to 8 times its scale, so the scales determine the 4-bit values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import ROPE_PAIRS, tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS, Quantization
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf

TRAINED = "trained"
"""The rounding of a checkpoint that was trained through the grid: it has its own codes and scales."""

ROUNDING_FILE = "edge_rounding.safetensors"
"""Scales by matrix, ``[rows, ceil(in / 32)]`` in the model dtype of the quantization named in the metadata."""

TOLERANCE = 0.1
"""The largest distance of a weight from a multiple of its scale, in scales. bf16 rounds 8 scales by at most 0.02."""


def write_scales(directory: Path, scales: Mapping[str, torch.Tensor], quantization: Quantization) -> None:
    metadata = {"quantization": quantization.name}
    save_file({name: tensor.contiguous() for name, tensor in scales.items()}, directory / ROUNDING_FILE, metadata)


@dataclass(frozen=True)
class TrainedRounding:
    """The rounding that a checkpoint was trained with, for a quantization."""

    checkpoint: Checkpoint
    quantization: Quantization

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> TrainedRounding | None:
        """The rounding of a checkpoint, `None` if it has none; an `EdgeTransactError` if the file is damaged."""
        file = checkpoint.path / ROUNDING_FILE
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                name = (stored.metadata() or {}).get("quantization", "")
        except SafetensorError as error:
            raise _damaged(file, str(error)) from error
        quantization = QUANTIZATIONS.get(name)
        if quantization is None or quantization.bits is None:
            raise _damaged(file, f"it is for a quantization {name!r}")
        return cls(checkpoint, quantization)

    def fits(self, quantization: Quantization) -> bool:
        """Whether a quantization can store the same 4-bit values and scales, in any layout."""
        ours = self.quantization
        return (quantization.grid, quantization.model_dtype) == (ours.grid, ours.model_dtype)

    def names(self) -> list[str]:
        shapes = tensor_shapes(self.checkpoint.plan)
        return [name for name, shape in shapes.items() if len(shape) == 2 and not name.endswith(ROPE_PAIRS)]

    def scales(self, name: str) -> torch.Tensor:
        """The scales of a matrix, ``[rows, groups]``; an `EdgeTransactError` if missing or of another shape."""
        file = self.checkpoint.path / ROUNDING_FILE
        rows, columns = self.checkpoint.shape(name)
        with safe_open(file, "pt") as stored:
            if name not in set(stored.keys()):
                raise _damaged(file, f"{name} is missing")
            scales: torch.Tensor = stored.get_tensor(name)
        expected = (rows, -(-columns // self.quantization.group_size))
        if tuple(scales.shape) != expected:
            raise _damaged(file, f"{name} has shape {list(scales.shape)}, not {list(expected)}")
        return scales

    def rounding_of(self, sources: ParameterSources) -> RoundingOf:
        """How parameters are rounded; an `EdgeTransactError` if a weight isn't a multiple of its scale."""

        def rounding(name: str) -> w4.RoundRows:
            parts, join = sources[name]
            scales = torch.from_numpy(join(*(self.scales(part).numpy() for part in parts)))

            def replay(rows: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
                chosen = scales[first : first + len(rows)]
                steps = torch.where(chosen == 0, torch.inf, chosen.float())[..., None]
                levels = w4.grouped(rows.float(), self.quantization) / steps
                codes = levels.round().clamp_(*self.quantization.levels)
                if not (levels - codes).abs_().amax() <= TOLERANCE:
                    raise EdgeTransactError(
                        f"the weights of {', '.join(parts)} are not on the grid of {ROUNDING_FILE}",
                        fix="They were changed after training: remove that file to round them again.",
                    )
                return codes.add_(self.quantization.zero_point).to(torch.int8).flatten(start_dim=1), chosen

            return replay

        return rounding


def _damaged(file: Path, problem: str) -> EdgeTransactError:
    return EdgeTransactError(
        f"{file} is damaged: {problem}", fix="Copy the complete checkpoint again, or remove the file to round it again."
    )
