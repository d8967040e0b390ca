"""The speed of recovery training next to that of its matrix products alone: ``python -m benchmarks.recovery``.

A step's products have a product of two matrices for each linear forward, and two more backward; the teacher's have the
first only. Both are timed in turns in one process, so that other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD, tensor_shapes
from edge_transact.heal.measures import Work
from edge_transact.heal.options import HealOptions
from edge_transact.heal.student import Student, load
from edge_transact.heal.teacher import DenseTeacher
from edge_transact.inputs import resolve_model
from edge_transact.system.computation import compute_device, is_bf16_fast


def linears(checkpoint: Checkpoint) -> Counter[tuple[int, int]]:
    """Outputs and inputs of every linear, `lm_head` included."""
    shapes = tensor_shapes(checkpoint.plan)
    found = Counter((shape[0], shape[1]) for name, shape in shapes.items() if "_proj.weight" in name)
    head = shapes[EMBEDDING if checkpoint.plan.tie_word_embeddings else LM_HEAD]
    return found + Counter([(head[0], head[1])])


def products(
    student: Checkpoint, teacher: Checkpoint, tokens: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """The matrix products of a step: two factors, and how often each is computed."""
    for checkpoint, is_trained in ((student, True), (teacher, False)):
        for (outputs, inputs), count in linears(checkpoint).items():
            hidden = torch.randn(tokens, inputs, dtype=dtype, device=device)
            weight = torch.randn(outputs, inputs, dtype=dtype, device=device)
            yield hidden, weight.t(), count
            if is_trained:
                gradient = torch.randn(tokens, outputs, dtype=dtype, device=device)
                yield gradient, weight, count
                yield gradient.t(), hidden, count


def products_s(
    student: Checkpoint, teacher: Checkpoint, tokens: int, dtype: torch.dtype, device: torch.device
) -> float:
    """Seconds of the products of a step."""
    total = 0.0
    for left, right, count in products(student, teacher, tokens, dtype, device):
        started = time.perf_counter()
        for _ in range(count):
            result = left @ right
        result[0, 0].item()
        total += time.perf_counter() - started
    return total


class Step:
    """A step of training on random tokens."""

    def __init__(
        self,
        student: Checkpoint,
        teacher: Checkpoint,
        batch: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._student = Student(load(student, HealOptions()), HealOptions()).to(device)
        self._teacher = DenseTeacher(teacher, dtype, device)
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=1e-4, fused=True)
        self._ids = torch.randint(0, student.plan.vocab_size, (batch, length), device=device)
        self._counted = torch.ones_like(self._ids, dtype=torch.bool)
        self._dtype = dtype

    def seconds(self) -> dict[str, float]:
        """Seconds of its parts: the teacher, the forward pass, the backward pass, the optimizer."""
        times = [time.perf_counter()]
        predictions = self._teacher.predict(self._ids, self._counted)
        times.append(time.perf_counter())
        with torch.autocast(self._ids.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            loss = self._student(self._ids, self._counted, predictions, self._dtype)
        (loss / self._ids.numel()).backward()
        times.append(time.perf_counter())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter())
        names = ("teacher_s", "student_s", "optimizer_s")
        return dict(zip(names, (after - before for before, after in itertools.pairwise(times)), strict=True))


def main() -> None:
    """Measures, and prints a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    teacher, student = (Checkpoint.open(resolve_model(name)) for name in (given.teacher, given.student))
    device = compute_device()
    dtype = torch.bfloat16 if is_bf16_fast(device) else torch.float32
    step = Step(student, teacher, given.batch_tokens // given.window, given.window, dtype, device)
    step.seconds()
    rows, alone = [], []
    for _ in range(given.repetitions):
        rows.append(step.seconds())
        alone.append(products_s(student, teacher, given.batch_tokens, dtype, device))
    parts = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    step_s, products_alone_s = (statistics.median(some) for some in ([sum(row.values()) for row in rows], alone))
    work = Work.of(student.plan, teacher.plan, given.window, HealOptions())
    print(
        json.dumps(
            {
                "dtype": str(dtype),
                "threads": torch.get_num_threads(),
                "step_s": step_s,
                **parts,
                "products_s": products_alone_s,
                "share_of_products": products_alone_s / step_s,
                "tokens_per_s": given.batch_tokens / step_s,
                "gflops": work.token * given.batch_tokens / step_s / 1e9,
            }
        )
    )


if __name__ == "__main__":
    main()
