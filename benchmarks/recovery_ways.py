"""``python -m benchmarks.recovery_ways PRUNED WAY -o DIR``: what a way to train a pruned model brings for its time.

``all`` and ``lora`` are what ``heal`` does; ``hidden`` adds the last hidden states to the loss, ``norms`` trains only
the norms, and ``layers`` lets each layer alone learn the dense model's hidden states. Prints a JSON object: the
divergence from the dense model on held-out text before and after, and CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from unittest import mock

import torch
from transformers import PreTrainedModel

from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.heal.frozen import load_frozen
from edge_transact.heal.losses import DensePredictions, Predictions, head_loss
from edge_transact.heal.options import HealOptions
from edge_transact.heal.run import heal, teacher_of, text_of
from edge_transact.heal.schedule import Schedule
from edge_transact.heal.student import Student, load, tensors_of
from edge_transact.heal.text import TrainingText
from edge_transact.inputs.models import resolve_model
from edge_transact.system.computation import compute_device, is_bf16_fast

RATES = {"all": 1e-4, "hidden": 1e-4, "lora": 1e-3, "norms": 1e-3, "layers": 1e-4}
"""The ways, with the learning rates of ``docs/lab/recovery.md``."""

RANK = 16
HELD_OUT = 20
"""Held-out sequences that are compared, evenly spread over all texts."""

TOGETHER = 2
"""Sequences that a layer learns from in a step."""


class _Norms(Student):
    def __init__(self, model: PreTrainedModel, options: HealOptions, ends: Collection[int] = ()) -> None:
        super().__init__(model, options, ends)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)


class _Hidden(Student):
    def forward(
        self, ids: torch.Tensor, counted: torch.Tensor, predictions: Predictions | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """As `Student.forward`, and while it trains, the squared error of the last hidden states over their size."""
        where = counted[:, 1:]
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][where]
        weight = self.model.lm_head.weight
        loss = head_loss(hidden, weight, ids[:, 1:][where], predictions, cross_entropy=0.0, dtype=dtype)
        if not torch.is_grad_enabled():
            return loss
        assert isinstance(predictions, DensePredictions)
        wanted = predictions.hidden.float()
        return loss + (hidden.float() - wanted).square().sum(-1).div(wanted.square().sum(-1)).sum()


def train(way: str, pruned: Checkpoint, output: Path, options: HealOptions) -> None:
    """Trains a pruned checkpoint in one of `RATES`' ways, and writes what comes out."""
    if way == "layers":
        _train_layers(pruned, output, options)
        return
    kinds = {"norms": _Norms, "hidden": _Hidden}
    with mock.patch("edge_transact.heal.run.Student", kinds.get(way, Student)):
        heal(str(pruned.path), output, options.model_copy(update={"lora": RANK if way == "lora" else None}))


def _train_layers(pruned: Checkpoint, output: Path, options: HealOptions) -> None:
    """Each layer reads what the layers before it, which have been trained, make of the text."""
    parent, _ = teacher_of(pruned, options)
    assert parent is not None
    text = text_of(pruned, options)
    schedule = Schedule.of(options, text.held_out.shape[1])
    sequences = text.sequences()
    ids = torch.stack([next(sequences).ids for _ in range(schedule.steps * schedule.sequences)])
    student, dense = load(pruned, options), load_frozen(parent, torch.float32)
    with torch.no_grad():
        hidden, wanted = (model.get_input_embeddings()(ids).float() for model in (student, dense))
        angles = student.model.rotary_emb(hidden[:1], torch.arange(ids.shape[1])[None])
    steps = math.ceil(len(ids) / TOGETHER)
    schedule = Schedule(steps, TOGETHER, TOGETHER, ids.shape[1], options.learning_rate)
    for layer, of_dense in zip(student.model.layers, dense.model.layers, strict=True):
        wanted = torch.cat([_run(of_dense, part, angles).detach() for part in wanted.split(TOGETHER)])
        optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
        for step, (part, target) in enumerate(zip(hidden.split(TOGETHER), wanted.split(TOGETHER), strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_of(step)
            error = (_run(layer, part, angles) - target).square().sum(-1).div(target.square().sum(-1)).mean()
            optimizer.zero_grad()
            error.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()
        hidden = torch.cat([_run(layer, part, angles).detach() for part in hidden.split(TOGETHER)])
    tensors = tensors_of(Student(student, options), pruned)
    write_checkpoint(pruned, pruned.plan, tensors, {"source": str(parent.path)}, output)


def _run(layer: torch.nn.Module, hidden: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16_fast(compute_device())):
        return layer(hidden, position_embeddings=angles).float()


def divergence(model: Checkpoint, parent: Checkpoint, text: TrainingText) -> float:
    """The mean of KL(parent || model) over the tokens of `HELD_OUT` held-out sequences, in nats."""
    picked = torch.linspace(0, len(text.held_out) - 1, min(HELD_OUT, len(text.held_out))).round().long()
    ours, theirs = (load_frozen(each, torch.float32) for each in (model, parent))
    total, count = 0.0, 0
    with torch.no_grad():
        for ids, counted in zip(text.held_out[picked], text.held_out_counted[picked], strict=True):
            log_model, log_parent = (each(ids[None]).logits[0, :-1].log_softmax(-1) for each in (ours, theirs))
            each_token = (log_parent.exp() * (log_parent - log_model)).sum(-1)[counted[1:]]
            total, count = total + each_token.sum().item(), count + len(each_token)
    return total / count


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, compares, and prints a JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery_ways", description=__doc__)
    parser.add_argument("pruned", metavar="PRUNED", help="a checkpoint that prune wrote")
    parser.add_argument("way", choices=RATES)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--train", default="demo:mixed")
    parser.add_argument("--train-tokens", type=int, default=32768)
    given = parser.parse_args(arguments)
    pruned = Checkpoint.open(resolve_model(given.pruned))
    options = HealOptions(train=given.train, train_tokens=given.train_tokens, learning_rate=RATES[given.way])
    parent, _ = teacher_of(pruned, options)
    assert parent is not None
    text = text_of(pruned, options)
    before = divergence(pruned, parent, text)
    started = time.process_time()
    train(given.way, pruned, given.output, options)
    cpu_s = time.process_time() - started
    after = divergence(Checkpoint.open(given.output), parent, text)
    print(json.dumps({"way": given.way, "divergence_before": before, "divergence": after, "cpu_s": round(cpu_s, 1)}))


if __name__ == "__main__":
    main()
