"""Figures of a training: the log, ``metrics.jsonl``, and TensorBoard if it is installed.

A row is an object with ``step`` and ``tokens``. Rows of training have ``loss``, ``learning_rate``, ``gradient_norm``
and ``tokens_per_s``; rows of measurements have ``held_out_loss``, or ``perplexity`` by text and ``tasks`` by task.
"""

from __future__ import annotations

import json
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_transact.formatting import duration

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

LOGGED_S = 30.0
"""Seconds between two lines of the log."""

TENSORBOARD = "tensorboard"
"""The directory of TensorBoard's files."""


class Measures:
    """The figures of one training; `rows` include those of an interrupted run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._tokens, self._spent_s, self._logged_s = 0, 0.0, time.monotonic()

    @property
    def tokens_per_s(self) -> float:
        """Of this process's training steps, without measurements and snapshots."""
        return self._tokens / max(self._spent_s, 1e-9)

    def trained(self, tokens: int, seconds: float, row: dict[str, Any], left: int) -> None:
        """Adds the row of a step; `left` is how many tokens are still to train on."""
        self._tokens += tokens
        self._spent_s += seconds
        self.rows.append(row | {"tokens_per_s": tokens / seconds})
        if time.monotonic() - self._logged_s >= LOGGED_S:
            self._logged_s = time.monotonic()
            logger.info(
                f"step {row['step']}: loss {row['loss']:.4f}, {self.tokens_per_s:.0f} tokens/s, "
                f"{duration(left / self.tokens_per_s)} left"
            )

    def write(self, directory: Path) -> None:
        (directory / METRICS).write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        if find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(directory / TENSORBOARD)) as writer:
            for row in self.rows:
                figures = {name: value for name, value in row.items() if name not in ("step", "tokens")}
                for name, value in figures.items():
                    for part, figure in value.items() if isinstance(value, dict) else (("", value),):
                        writer.add_scalar(f"{name}/{part}".rstrip("/"), figure, row["step"])
