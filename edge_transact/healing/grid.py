"""Training through MLC's 4-bit grid, so that the rounded model is what is trained.

Forward and backward passes see rounded weights. The gradient with respect to them moves exact weights, which are kept
beside (straight-through estimation; Bengio et al., 2013, arXiv 1308.3432), and the exact weights are rounded again
after each step: once, however many parts the step has::

    rounded = (code - 7) * scale      code = clip(round(exact / scale) + 7, 0, 15)

Scales are learned as well. Where a scale grows by a share, the exact weights of its group grow with it, so that codes
stay; the gradient by that share is ``sum rounded * d loss / d rounded`` over the group, as in `rounding.distillation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from edge_transact.errors import UsageError
from edge_transact.quantization import Quantization
from edge_transact.rounding.distillation import descend

SCALE_RATE = 1e-3
"""The largest relative change of a scale in a step, where the learning rate of weights is at its highest."""

MARGIN = 0.5
"""How far beyond the grid exact weights may lie, in scales: from there, one step can bring them back."""

CHUNK_WEIGHTS = 1 << 18
"""Weights that are rounded at once: few enough to stay in the CPU's cache from one operation to the next."""


@dataclass
class _Matrix:
    """A matrix on the grid: `parameter` has the rounded weights, `change` the log of each scale's growth since
    `initial`."""

    parameter: nn.Parameter
    exact: torch.Tensor
    initial: torch.Tensor
    change: torch.Tensor
    mean: torch.Tensor
    size: torch.Tensor


class Grid:
    """The weights of a model under training, exact and rounded.

    `scales` are the initial ones of each matrix, by its name in the checkpoint: ``[rows, groups]``.
    """

    def __init__(self, scales: Mapping[str, torch.Tensor], quantization: Quantization) -> None:
        self.quantization = quantization
        self._initial = scales
        self._matrices: dict[str, _Matrix] = {}
        self._others: dict[str, tuple[nn.Parameter, torch.Tensor]] = {}
        self.dtype: torch.dtype = getattr(torch, quantization.model_dtype)
        # Shards have bf16 in place of fp32.
        self._stored = torch.bfloat16 if self.dtype == torch.float32 else self.dtype

    def attach(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Takes over a model's parameters by their names in the checkpoint, fp32: from now on, they hold rounded
        weights.

        Those without a gradient are rounded and stay as they are. Raises a `UsageError` if they are sharded.
        """
        if any(isinstance(parameter, DTensor) for parameter in parameters.values()):
            raise UsageError(
                "--quant rounds whole matrices, and FSDP shards them", fix="Train with DDP, or leave out --quant."
            )
        for name, parameter in parameters.items():
            exact = parameter.data
            if parameter.requires_grad:
                parameter.data = torch.empty_like(exact)
            if name in self._initial:
                initial = self._initial[name].to(exact.device, torch.float32)
                zeros = [torch.zeros_like(initial), torch.zeros_like(initial), initial.new_zeros(())]
                self._matrices[name] = _Matrix(parameter, exact, initial, *zeros)
            else:
                self._others[name] = parameter, exact
        self.round()

    def exact(self, name: str) -> torch.Tensor:
        """The exact weights of a parameter. After writing to them, call `round`."""
        return self._matrices[name].exact if name in self._matrices else self._others[name][1]

    def scales(self) -> dict[str, torch.Tensor]:
        """The scales of each matrix as they are stored, in the model's dtype, on the CPU."""
        return {name: self._scales(matrix).to(self.dtype).cpu() for name, matrix in self._matrices.items()}

    def tensors(self, *, descent: bool) -> dict[str, torch.Tensor]:
        """The state beside exact weights: of the scales, and of the descent that moves them.

        After writing to these tensors, call `round`.
        """
        found = {}
        for name, matrix in self._matrices.items():
            found[f"scale.change.{name}"] = matrix.change
            if descent:
                found |= {f"scale.mean.{name}": matrix.mean, f"scale.size.{name}": matrix.size}
        return found

    @torch.no_grad()
    def step(self, update: Callable[[], object], rate: float, number: int) -> None:
        """Moves exact weights and scales along the gradients of the parameters, in step `number`, from 1.

        `update` is the optimizer's step, which sees exact weights; `rate` is the learning rate as a share of the
        highest.
        """
        before = {name: self._scales(matrix) for name, matrix in self._matrices.items()}
        for name, matrix in self._matrices.items():
            if matrix.parameter.grad is not None:
                self._learn(matrix, before[name], rate * SCALE_RATE, number)
        rounded = [(parameter, parameter.data) for parameter in self._parameters() if parameter.requires_grad]
        for matrix in self._matrices.values():
            matrix.parameter.data = matrix.exact
        for parameter, exact in self._others.values():
            parameter.data = exact
        update()
        for parameter, values in rounded:
            parameter.data = values
        for name, matrix in self._matrices.items():
            if matrix.parameter.requires_grad:
                self._follow(matrix, before[name])
        self.round()

    @torch.no_grad()
    def round(self) -> None:
        """Rounds the exact weights: the parameters depend on these and on the scales alone, to the bit."""
        for matrix in self._matrices.values():
            scales = self._scales(matrix)
            steps = torch.where(scales == 0, torch.inf, scales)
            for part, groups in self._chunks(matrix.exact):
                exact, rounded = (self._grouped(tensor[part]) for tensor in (matrix.exact, matrix.parameter.data))
                levels = torch.div(exact, steps[groups]).round_().clamp_(*self.quantization.levels)
                torch.mul(levels, scales[groups], out=rounded)
        for parameter, exact in self._others.values():
            parameter.data.copy_(exact.to(self._stored))

    def _parameters(self) -> Iterator[nn.Parameter]:
        yield from (matrix.parameter for matrix in self._matrices.values())
        yield from (parameter for parameter, _ in self._others.values())

    def _scales(self, matrix: _Matrix) -> torch.Tensor:
        return (matrix.initial * matrix.change.exp()).to(self._stored).float()

    def _learn(self, matrix: _Matrix, scales: torch.Tensor, rate: float, number: int) -> None:
        """A step of the scales, by the mean gradient relative to its mean size in the matrix."""
        gradient = torch.empty_like(scales)
        assert matrix.parameter.grad is not None
        for part, groups in self._chunks(matrix.exact):
            by_rounded, rounded = (self._grouped(t[part]) for t in (matrix.parameter.grad, matrix.parameter.data))
            torch.sum(by_rounded * rounded, dim=-1, keepdim=True, out=gradient[groups])
        descend(matrix.change, matrix.mean, matrix.size, gradient, rate, number)

    def _follow(self, matrix: _Matrix, before: torch.Tensor) -> None:
        """Exact weights grow with their scales, and stay on the grid's range."""
        scales = self._scales(matrix)
        grown = torch.where(before == 0, 1.0, scales / before)
        least, most = self.quantization.levels
        ends = torch.stack([(least - MARGIN) * scales, (most + MARGIN) * scales])
        low, high = ends.amin(0), ends.amax(0)
        for part, groups in self._chunks(matrix.exact):
            exact = self._grouped(matrix.exact[part])
            torch.clamp(exact.mul_(grown[groups]), low[groups], high[groups], out=exact)

    def _chunks(self, matrix: torch.Tensor) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice, None]]]:
        """Indices of weights, `CHUNK_WEIGHTS` on a CPU, and of their scales; a ragged last group is by itself."""
        (rows, columns), length = matrix.shape, self.quantization.group_size
        whole = columns // length
        size = max(1, CHUNK_WEIGHTS // columns) if matrix.device.type == "cpu" else rows
        for start in range(0, rows, size):
            chunk = slice(start, start + size)
            if whole:
                yield (chunk, slice(0, whole * length)), (chunk, slice(0, whole), None)
            if columns % length:
                yield (chunk, slice(whole * length, columns)), (chunk, slice(whole, whole + 1), None)

    def _grouped(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights ``[rows, n]`` of whole groups as a view ``[rows, groups, 32]``; a ragged one ``[rows, 1, n]``."""
        return weights.unflatten(1, (-1, min(self.quantization.group_size, weights.shape[1])))
