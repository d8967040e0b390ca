"""What is written of a training while it runs: the log, rows of ``metrics.jsonl``, and TensorBoard if it is installed.

A row is an object with ``step`` and ``tokens``. Rows of training have ``loss``, ``learning_rate``, ``gradient_norm``,
``tokens_per_s`` and ``matmul_share``; rows of measurements have ``held_out_loss``, or ``perplexity`` by text and
``tasks`` by task.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from edge_transact import costs
from edge_transact.formatting import duration
from edge_transact.heal.options import HealOptions
from edge_transact.heal.repetition import TOKENS_AGAIN
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

LOGGED_S = 30.0
"""Seconds between two lines of the log."""

PEAK_S = 0.2
"""How long products are repeated to find their peak."""

TENSORBOARD = "tensorboard"
"""The directory of TensorBoard's files."""


@dataclass(frozen=True)
class Work:
    """The FLOPs of a training's matrix products; of a token of text, with its part of the student's continuations.

    Attributes:
        student: Of a token, forward and backward.
        teacher: Of a token, forward; 0 without a teacher.
        held_out: Of a held-out token, the student's forward pass and both heads.
    """

    student: float
    teacher: float
    held_out: float

    @classmethod
    def of(cls, plan: WidthPlan, teacher: WidthPlan | None, length: int, options: HealOptions) -> Work:
        """The work of training a model with these widths."""
        layers, head = forward_flops(plan, length)
        dense = sum(forward_flops(teacher, length)) if teacher else 0.0
        frozen_head = options.freeze_embedding or options.lora is not None
        passes = 2.0 if options.lora is not None else 3.0
        passes += options.gradient_checkpointing
        student = passes * layers + (2 if frozen_head else 3) * head
        # Continuations are written, and go through the model once more.
        again, forward = TOKENS_AGAIN if options.unlikelihood else 0.0, layers + head
        held_out = layers + head * (2 if teacher else 1) + again * 2 * forward
        return cls(student + again * (forward + student), dense, held_out)

    @property
    def token(self) -> float:
        """Of a token."""
        return self.student + self.teacher


def forward_flops(plan: WidthPlan, length: int) -> tuple[float, float]:
    """The FLOPs of a token in a sequence: in all layers, and in `lm_head`."""
    head = 2.0 * plan.hidden_size * plan.vocab_size
    return (costs.prefill_flops(plan, length) - head) / length, head


def peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """The most FLOPs a second that a matrix product in torch reaches now, with as many threads as torch uses."""
    rows, inputs, outputs = 128, 1024, 1024
    states = torch.ones(rows, inputs, dtype=dtype, device=device)
    weight = torch.ones(outputs, inputs, dtype=dtype, device=device)
    took_s: list[float] = []
    while sum(took_s) < PEAK_S:
        started = time.perf_counter()
        torch.nn.functional.linear(states, weight)[0, 0].item()
        took_s.append(time.perf_counter() - started)
    return 2 * rows * inputs * outputs / min(took_s)


class Measures:
    """The figures of one training.

    Args:
        work: The FLOPs of a token.
        measure_peak: Tells the FLOPs a second of matrix products on all processes' devices.

    Attributes:
        rows: The rows so far, those of an interrupted run included.
    """

    def __init__(self, work: Work, measure_peak: Callable[[], float]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._work, self._measure_peak, self._peak = work, measure_peak, measure_peak()
        self._tokens, self._spent_s, self._logged_s = 0, 0.0, time.monotonic()

    @classmethod
    def on_this_machine(cls, work: Work, dtype: torch.dtype, device: torch.device, count: int) -> Measures:
        """With the peak of products that nothing slows down, as if all processes had a device like this one."""
        return cls(work, lambda: peak_flops(dtype, device) * (count if device.type != "cpu" else 1))

    @property
    def tokens_per_s(self) -> float:
        """In training steps of this process's life."""
        return self._tokens / max(self._spent_s, 1e-9)

    @property
    def matmul_share(self) -> float:
        """The share of the peak that training steps reach."""
        return self._share(self.tokens_per_s)

    def _share(self, tokens_per_s: float) -> float:
        return tokens_per_s * self._work.token / self._peak

    @property
    def held_out_share(self) -> float:
        """What a held-out token takes, as a share of what it takes to train on one."""
        return self._work.held_out / self._work.token

    def trained(self, tokens: int, seconds: float, row: dict[str, Any], left: int) -> None:
        """A step of so many tokens that took so long.

        Args:
            tokens: Of the step.
            seconds: Of the step alone, without measurements and snapshots.
            row: Its figures.
            left: The tokens that are left.
        """
        self._tokens += tokens
        self._spent_s += seconds
        self.add(row | {"tokens_per_s": tokens / seconds})
        if time.monotonic() - self._logged_s >= LOGGED_S:
            self._logged_s = time.monotonic()
            if self.matmul_share > 1:
                # Another program must have slowed down the products that the peak was measured with.
                self._peak = max(self._peak, self._measure_peak())
            logger.info(
                f"step {row['step']}: loss {row['loss']:.4f}, {self.tokens_per_s:.0f} tokens/s, "
                f"{self.matmul_share:.0%} of the matrix products' peak, {duration(left / self.tokens_per_s)} left"
            )

    def add(self, row: dict[str, Any]) -> None:
        """A row of figures."""
        self.rows.append(row)

    def write(self, directory: Path) -> None:
        """Writes ``metrics.jsonl``, and TensorBoard's files if it is installed."""
        rows = [
            row | {"matmul_share": self._share(row["tokens_per_s"])} if "tokens_per_s" in row else row
            for row in self.rows
        ]
        (directory / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        if find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(directory / TENSORBOARD)) as writer:
            for row in rows:
                figures = {name: value for name, value in row.items() if name not in ("step", "tokens")}
                for name, value in figures.items():
                    for part, figure in value.items() if isinstance(value, dict) else (("", value),):
                        writer.add_scalar(f"{name}/{part}".rstrip("/"), figure, row["step"])
