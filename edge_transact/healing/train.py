"""The training itself: AdamW with a warm-up and a cosine, on one process or several.

Every process goes through the same sequences and takes its share of each step, so that the result hardly depends on
their number. The step that predicts held-out text best is kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from edge_transact.cache.journal import decoded, encoded
from edge_transact.errors import EdgeTransactError
from edge_transact.healing.grid import Grid
from edge_transact.healing.lean import Teacher
from edge_transact.healing.losses import CONTINUATION, Predictions, contexts, rows_of
from edge_transact.healing.measures import Measures
from edge_transact.healing.options import HealOptions
from edge_transact.healing.processes import Processes
from edge_transact.healing.schedule import Schedule
from edge_transact.healing.snapshots import BEST, STEP, Snapshots
from edge_transact.healing.student import Student
from edge_transact.healing.text import Sequence, TrainingText
from edge_transact.progress import bar, working

logger = logging.getLogger(__name__)

TRAIN_STEP, HELD_OUT_STEP = "train", "loss on held-out text"

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.0

CLIP = 1.0
"""The largest norm of a step's gradient."""

PATIENCE = 3
"""After so many measurements in a row that are worse than the best, training stops."""

OF_STUDENT = "model."
"""In front of a parameter's name in the checkpoint, where it is the student's."""

Evaluate = Callable[[Student], dict[str, Any]]

Item = TypeVar("Item")


class NotFiniteError(EdgeTransactError):
    """The loss or its gradient became NaN or infinite. `best` is the best step before, 0 if none was better than the
    start."""

    def __init__(self, message: str, *, fix: str, best: int) -> None:
        super().__init__(message, fix=fix)
        self.best = best


@dataclass(frozen=True)
class Trained:
    """The outcome of a training; the student has the weights of the best step.

    Attributes:
        loss: The mean loss of the last tenth of the steps, in nats a token, with the penalty on repetition if there is.
        held_out_before: The same on held-out text before the training.
        held_out: That of the best step.
        best: The best step; 0 if the training made it worse.
        stopped: Whether it stopped early, because held-out text got worse.
    """

    steps: int
    tokens: int
    loss: float
    held_out_before: float
    held_out: float
    best: int
    stopped: bool


class Training:
    """A training of any student.

    `measures` gets the figures, `snapshots` the state. There is no teacher if the text alone is learned. `evaluate` is
    called as `HealOptions.eval_every` says, and `grid` rounds the student. Raises the errors of `Schedule.of`.
    """

    def __init__(
        self,
        student: Student,
        text: TrainingText,
        options: HealOptions,
        *,
        teacher: Teacher | None,
        processes: Processes,
        measures: Measures,
        snapshots: Snapshots,
        evaluate: Evaluate | None = None,
        grid: Grid | None = None,
    ) -> None:
        length = text.held_out.shape[1]
        self.schedule = Schedule.of(options, length, processes.count)
        self._rows = rows_of(length) if options.unlikelihood else 0
        """The student's continuations of a sequence."""
        self.student, self.text, self.options, self.teacher = student, text, options, teacher
        self.processes, self.measures, self.snapshots, self.evaluate = processes, measures, snapshots, evaluate
        self.grid = grid
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=options.learning_rate, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.model, self.optimizer = processes.accelerator.prepare(student, optimizer)
        self._parameters = {
            name.removeprefix("module."): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        if grid:
            grid.attach({name.removeprefix(OF_STUDENT): parameter for name, parameter in student.named_parameters()})
        self._held_out = self.schedule.held_out(text)
        self._held_out_predictions: dict[int, Predictions] = {}
        """The teacher's, which never change, of what goes through the model at once."""
        self._done, self._best, self._worse = 0, 0, 0
        self._best_of_snapshot = 0
        self._before = self._lowest = math.nan

    def run(self) -> Trained:
        """Trains to the end, or until held-out text gets worse, and leaves the student with the best step's weights.

        Raises:
            NotFiniteError: The loss became NaN or infinite.
            EdgeTransactError: The text can't be read any more, the disk is full, or another process has failed.
        """
        self._resume()
        if not self._done:
            self._before = self._lowest = self._measure(0)
            self._keep_best()
            self._evaluate()
        schedule = self.schedule
        sequences = self.text.sequences(self._done * schedule.sequences)
        try:
            with bar(TRAIN_STEP, self._work(schedule.steps), self._work(self._done)) as advance:
                while self._done < schedule.steps and self._worse < PATIENCE:
                    self._step([next(sequences) for _ in range(schedule.sequences)])
                    self._after_step()
                    advance(self._work(self._done) - self._work(self._done - 1))
        except NotFiniteError:
            self._restore_best()
            raise
        self._restore_best()
        losses = [row["loss"] for row in self.measures.rows if "loss" in row]
        last = losses[-max(1, len(losses) // 10) :]
        return Trained(
            steps=self._done,
            tokens=self._done * schedule.batch_tokens,
            loss=sum(last) / len(last) if last else math.nan,
            held_out_before=self._before,
            held_out=self._lowest,
            best=self._best,
            stopped=self._done < schedule.steps,
        )

    def _work(self, done: int) -> float:
        """The cost of so many steps and their measurements of held-out text, in steps."""
        # Measuring goes forward only, a third of what training on a sequence takes.
        measurement = len(self._held_out) / (3 * self.schedule.sequences)
        return done + measurement * self.schedule.evaluations(done)

    def _step(self, sequences: list[Sequence]) -> None:
        started = time.perf_counter()
        schedule, step = self.schedule, self._done
        rate = schedule.rate_of(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counted = sum(int(sequence.counted[1:].sum()) for sequence in sequences)
        first = step * schedule.sequences
        figures = {"unlikelihood": self._unlearn_repetition(sequences, first)} if self._rows else {}
        groups = self._mine(sequences)
        summed = 0.0
        for number, group in enumerate(groups, 1):
            with self.processes.part(self.model, last=number == len(groups)), self.processes.failing_together():
                ids, counts = self._batch(group)
                predictions = self.teacher.predict(ids, counts) if self.teacher else None
                loss = self.model(ids, counts, predictions, self.processes.dtype)
                # DDP and FSDP average gradients over the processes, and the loss is a sum over all.
                self.processes.accelerator.backward(loss * (self.processes.count / max(counted, 1)))
            summed += loss.item()
        norm = self._clip()
        (summed,) = self.processes.total(summed)
        loss_per_token = summed / max(counted, 1)
        if self._rows:
            loss_per_token += self.options.unlikelihood * figures["unlikelihood"]
        if not math.isfinite(loss_per_token) or not math.isfinite(norm):
            what = (
                f"the norm of the gradient is {norm}"
                if math.isfinite(loss_per_token)
                else f"the loss is {loss_per_token}"
            )
            raise NotFiniteError(
                f"{what} in step {step + 1} of {schedule.steps}, on the sequences {first} to "
                f"{first + schedule.sequences - 1}",
                fix=f"Give a lower --learning-rate than {schedule.rate:g}.",
                best=self._best,
            )
        if self.grid:
            self.grid.step(self.optimizer.step, rate / schedule.rate, step + 1)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._done += 1
        tokens = self._done * schedule.batch_tokens
        self.measures.trained(
            schedule.batch_tokens,
            time.perf_counter() - started,
            {
                "step": self._done,
                "tokens": tokens,
                "loss": loss_per_token,
                "learning_rate": rate,
                "gradient_norm": norm,
                **figures,
            },
            schedule.steps * schedule.batch_tokens - tokens,
        )

    def _unlearn_repetition(self, sequences: list[Sequence], first: int) -> float:
        """Adds the gradient of the penalty, and returns it, in nats for each token that the student has written."""
        processes, summed = self.processes, 0.0
        written = len(sequences) * self._rows * CONTINUATION
        for group in self._mine(list(enumerate(sequences, first))):
            with processes.part(self.model, last=False), processes.failing_together():
                penalty = self._penalty(group)
                processes.accelerator.backward(penalty * (self.options.unlikelihood * processes.count / written))
            summed += penalty.item()
        (summed,) = processes.total(summed)
        return summed / written

    def _penalty(self, sequences: Iterable[tuple[int, Sequence]]) -> torch.Tensor:
        ids = torch.cat([contexts(sequence, number) for number, sequence in sequences])
        return self.model(ids.to(self.processes.device), None, None, self.processes.dtype)

    def _mine(self, items: list[Item]) -> list[list[Item]]:
        """This process's share, as many at once as go through the model together."""
        mine, together = items[self.processes.rank :: self.processes.count], self.schedule.together
        return [mine[start : start + together] for start in range(0, len(mine), together)]

    def _batch(self, sequences: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, and which of them count, both ``[batch, length]`` on the device."""
        ids = torch.stack([sequence.ids for sequence in sequences])
        counted = torch.stack([sequence.counted for sequence in sequences])
        return ids.to(self.processes.device), counted.to(self.processes.device)

    def _clip(self) -> float:
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)
        if norm > CLIP and math.isfinite(norm):
            torch._foreach_mul_(gradients, CLIP / norm)
        return norm

    def _after_step(self) -> None:
        schedule, done = self.schedule, self._done
        if schedule.is_evaluated(done):
            loss = self._measure(done)
            if loss < self._lowest:
                self._lowest, self._best, self._worse = loss, done, 0
                self._keep_best()
            else:
                self._worse += 1
        every = self.options.eval_every
        if every and done * schedule.batch_tokens // every > (done - 1) * schedule.batch_tokens // every:
            self._evaluate()
        if self.snapshots.is_due() and done < schedule.steps:
            self.snapshots.write(STEP, done, self._state() | self._figures())
            self._best_of_snapshot = self._best

    def _evaluate(self) -> None:
        if not self.evaluate:
            return
        self.student.eval()
        figures = self.evaluate(self.student)
        self.student.train()
        self.measures.rows.append({"step": self._done, "tokens": self._done * self.schedule.batch_tokens, **figures})

    @torch.no_grad()
    def _measure(self, done: int) -> float:
        """The mean loss on held-out text, in nats a token, with the penalty on repetition."""
        numbered = list(enumerate(self._held_out))
        groups = self._mine(numbered)
        # Every process calls the model as often, because sharded weights are gathered by all.
        calls = math.ceil(math.ceil(len(numbered) / self.processes.count) / self.schedule.together)
        summed = penalty = 0.0
        with working(HELD_OUT_STEP), self.processes.failing_together():
            for call in range(calls):
                group, share = (groups[call], 1) if call < len(groups) else (numbered[:1], 0)
                ids, counted = self._batch([sequence for _, sequence in group])
                if self.teacher and call not in self._held_out_predictions:
                    self._held_out_predictions[call] = self.teacher.predict(ids, counted)
                predictions = self._held_out_predictions.get(call)
                summed += share * self.model(ids, counted, predictions, self.processes.dtype).item()
                if self._rows:
                    penalty += share * self._penalty(group).item()
        summed, penalty = self.processes.total(summed, penalty)
        mean = summed / max(sum(int(sequence.counted[1:].sum()) for sequence in self._held_out), 1)
        if self._rows:
            mean += self.options.unlikelihood * penalty / (len(self._held_out) * self._rows * CONTINUATION)
        if not math.isfinite(mean):
            raise NotFiniteError(
                f"the loss on held-out text is {mean} after step {done}",
                fix="Give a lower --learning-rate."
                if done
                else "The model or its teacher is damaged: eval says which.",
                best=self._best,
            )
        self.measures.rows.append({"step": done, "tokens": done * self.schedule.batch_tokens, "held_out_loss": mean})
        logger.info(f"step {done} of {self.schedule.steps}: loss on held-out text {mean:.4f}")
        return mean

    def _keep_best(self) -> None:
        # The latest snapshot, from which a killed run continues, may have another best step.
        self.snapshots.write(BEST, self._best, self._weights(), keep=self._best_of_snapshot)

    def _restore_best(self) -> None:
        self.snapshots.read(BEST, self._best, self._weights())
        if self.grid:
            self.grid.round()
        if not self._best:
            logger.warning("Training did not lower the loss on held-out text at any step.")

    def _weights(self) -> dict[str, torch.Tensor]:
        weights = {f"weight.{name}": parameter.detach() for name, parameter in self._parameters.items()}
        if self.grid:
            exact = {f"weight.{name}": self.grid.exact(name.removeprefix(OF_STUDENT)) for name in self._parameters}
            return exact | self.grid.tensors(descent=False)
        return weights

    def _state(self) -> dict[str, torch.Tensor]:
        """Weights and the optimizer's state; one that has none yet gets zeros."""
        state = self._weights() | (self.grid.tensors(descent=True) if self.grid else {})
        for name, parameter in self._parameters.items():
            of_parameter = self.optimizer.state[parameter]
            if not of_parameter:
                of_parameter["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                of_parameter["exp_avg"] = torch.zeros_like(parameter)
                of_parameter["exp_avg_sq"] = torch.zeros_like(parameter)
            state |= {f"{key}.{name}": value for key, value in of_parameter.items()}
        return state

    def _figures(self) -> dict[str, torch.Tensor]:
        numbers = [self._done, self._best, self._worse, self._before, self._lowest]
        return {"numbers": encoded(numbers), "rows": encoded(self.measures.rows)}

    def _resume(self) -> None:
        step = self.snapshots.latest(STEP)
        if step is None:
            return
        figures = self.snapshots.read(STEP, step, self._state())
        if self.grid:
            self.grid.round()
        self._done, self._best, self._worse, self._before, self._lowest = decoded(figures["numbers"])
        self.measures.rows = decoded(figures["rows"])
        logger.info(f"going on after step {self._done} of {self.schedule.steps}")
        self._best_of_snapshot = self._best
