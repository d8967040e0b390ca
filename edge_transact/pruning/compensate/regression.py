"""Ridge regression for a projection's weights: summed in fp32 batch by batch, solved in fp64.

For the MLP of a 7B model, a matrix of all dims by all dims takes a gigabyte in fp64. There is never more than one: it
is overwritten by its own Cholesky factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edge_transact.checkpoint.layers import is_finite
from edge_transact.layerwise.gram import Gram, sums_of

DAMPINGS = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Ridge penalties that are tried on the held-out windows, as shares of each dim's own energy."""

HELD_OUT = 8
"""One window in this many is held out to choose the damping; the final solution uses it too."""


def held_out_of(windows: int) -> torch.Tensor:
    """Which windows are held out, bool ``[windows]``; the last one if they are few."""
    return torch.arange(windows) % HELD_OUT == min(HELD_OUT, windows) - 1


@dataclass(frozen=True)
class Fit:
    """How one projection was solved.

    Attributes:
        damping: The ridge penalty that was chosen; infinite if the weights didn't change.
        error_before: The squared distance to the target with the old weights, as a share of the square of the source's
            hidden state; the mean over the tokens of the held-out windows.
        error_after: The same with the weights solved on the other windows.
    """

    damping: float
    error_before: float
    error_after: float

    @property
    def in_vain(self) -> bool:
        """Whether there was an error, and no solution reduced it."""
        return math.isinf(self.damping) and self.error_before > 0


class Regression:
    """The sums of one least-squares problem, ``outputs = W inputs``, in fp32; `weight` is the old W."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        outputs, inputs = weight.shape
        self._gram = [Gram(inputs, weight.device) for _ in range(2)]
        self._cross = [torch.zeros(outputs, inputs, device=weight.device) for _ in range(2)]
        self._square = torch.zeros(2, device=weight.device)
        self._held_out = 0
        """The number of outputs, tokens times dims, that choose the damping."""

    def add(self, inputs: torch.Tensor, missing: torch.Tensor | None, tokens: torch.Tensor, *, held_out: bool) -> None:
        """Adds tokens.

        Args:
            inputs: ``[tokens, inputs]``.
            missing: The target minus the old W's output, ``[tokens, outputs]``; `None` where that is the target.
            tokens: The weight of each token, fp32 ``[tokens, 1]``.
            held_out: Whether they choose the damping.
        """
        part, root = int(held_out), tokens.sqrt()
        inputs = inputs * root
        with sums_of(self._weight.dtype):
            self._gram[part].add(inputs)
            if missing is not None:
                missing = missing * root
                self._cross[part].addmm_(missing.T, inputs)
                self._square[part] += missing.square().sum()
        self._held_out += held_out * len(inputs) * len(self._weight)

    def add_windows(
        self, inputs: torch.Tensor, missing: torch.Tensor | None, hidden: torch.Tensor, held_out: torch.Tensor
    ) -> None:
        """Adds a batch of windows, of which some are `held_out`, bool ``[batch]``; see `add` for the others.

        A token counts by the inverse square of the size of what the next norm reads: `hidden`, ``[batch, window,
        hidden_size]``.
        """
        tokens = 1 / hidden.to(inputs.device).float().square().mean(dim=-1, keepdim=True).clamp_min_(1e-12)
        # Consecutive windows with the same answer are a view; all windows with the same answer would be a copy.
        answers, sizes = (each.tolist() for each in torch.unique_consecutive(held_out, return_counts=True))
        lacking = [None] * len(sizes) if missing is None else missing.split(sizes)
        for answer, part, lacks, weights in zip(
            answers, inputs.split(sizes), lacking, tokens.split(sizes), strict=True
        ):
            flat = None if lacks is None else lacks.flatten(end_dim=1)
            self.add(part.flatten(end_dim=1), flat, weights.flatten(end_dim=1), held_out=answer)

    def narrowed(self, kept: torch.Tensor) -> Regression:
        """The same problem for some inputs, int64 ``[kept]``: what the others gave the old W's output is missing."""
        narrow = Regression(self._weight[:, kept])
        gone = torch.ones(self._weight.shape[1], dtype=torch.bool, device=kept.device).index_fill_(0, kept, False)
        columns = self._weight[:, gone].float()
        for part, gram in enumerate(self._gram):
            lost = columns @ gram.whole()[gone]
            narrow._gram[part] = gram.narrowed(kept)
            narrow._cross[part] = (self._cross[part] + lost)[:, kept]
            narrow._square[part] = self._square[part] + ((2 * self._cross[part] + lost)[:, gone] * columns).sum()
        narrow._held_out = self._held_out
        return narrow

    def mapped(self, weight: torch.Tensor, into: torch.Tensor) -> Regression:
        """The same problem for inputs that ``into @ inputs`` are, whose old W is `weight`; ``[new, inputs]``, fp32."""
        mapped, change = Regression(weight), self._weight.float() - weight.float() @ into
        for part, gram in enumerate(self._gram):
            lost = change @ gram.whole()
            mapped._gram[part] = gram.mapped(into)
            mapped._cross[part] = (self._cross[part] + lost) @ into.T
            mapped._square[part] = self._square[part] + ((2 * self._cross[part] + lost) * change).sum()
        mapped._held_out = self._held_out
        return mapped

    def solve(self) -> tuple[torch.Tensor, Fit]:
        """The new W in fp64, and how it was found; the old W if no damping makes it better."""
        grams = [part.whole() for part in self._gram]
        before = self._square[1].item()
        errors: dict[int, float] = {}

        def error(index: int) -> float:
            """The held-out error with the damping of that index; infinite if there is no finite solution."""
            if index not in errors:
                in_range = 0 <= index < len(DAMPINGS)
                change = _ridge(grams[:1], self._cross[:1], DAMPINGS[index]) if in_range else None
                if change is None:
                    return errors.setdefault(index, float("inf"))
                change = change.float()
                gained = (change @ grams[1]).sub_(self._cross[1], alpha=2).mul_(change)
                found = before + gained.sum(dtype=torch.float64).item()
                errors[index] = found if math.isfinite(found) else float("inf")
            return errors[index]

        # The error falls and then rises with the damping: go downhill from the middle, or from the first finite one.
        index = len(DAMPINGS) // 2
        while math.isinf(error(index)) and index + 1 < len(DAMPINGS):
            index += 1
        for direction in (-1, 1):
            while error(index + direction) < error(index):
                index += direction
        best, least = DAMPINGS[index], error(index)
        # With NaN, the comparison is false.
        change = _ridge(grams, self._cross, best) if least < before else None
        if change is None:
            return self._weight.double(), self._fit(float("inf"), before)
        return change.add_(self._weight), self._fit(best, least)

    def _fit(self, damping: float, error: float) -> Fit:
        return Fit(damping, self._square[1].item() / self._held_out, error / self._held_out)


def _ridge(grams: Sequence[torch.Tensor], crosses: Sequence[torch.Tensor], damping: float) -> torch.Tensor | None:
    """``cross (gram + damping diag(gram))^-1`` of the summed matrices, in fp64; `None` if that isn't finite."""
    damped = _total(grams)
    diagonal = damped.diagonal()
    diagonal += damping * diagonal + 1e-9 * diagonal.mean()
    # LAPACK is column-major: torch doesn't copy the transposed matrix.
    factor = damped.mT
    failed = torch.empty((), dtype=torch.int32, device=damped.device)
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    if failed or not is_finite(damped):
        return None
    change = _total(crosses)
    torch.linalg.solve_triangular(factor.mT, change, upper=True, left=False, out=change)
    torch.linalg.solve_triangular(factor, change, upper=False, left=False, out=change)
    return change if is_finite(change) else None


def _total(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum in fp64, without a copy of each part."""
    total = parts[0].double()
    for part in parts[1:]:
        total += part
    return total
