"""What a training will take on this machine: its steps, their time and its memory, from formulas."""

from __future__ import annotations

import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.heal.evaluation import evaluation_s
from edge_transact.heal.losses import BLOCK_TOKENS, CHUNK_TOKENS
from edge_transact.heal.measures import Work
from edge_transact.heal.options import HealOptions
from edge_transact.heal.run import LOAD_STEP, TEXT_STEP, WRITE_STEP
from edge_transact.heal.schedule import Schedule, length_of
from edge_transact.heal.text.stream import MOST_HELD_OUT
from edge_transact.heal.train import HELD_OUT_STEP, TRAIN_STEP
from edge_transact.progress import Forecast, Step
from edge_transact.system.computation import compute_device, is_bf16_fast
from edge_transact.system.memory import PACKAGES_BYTES
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.widths import WidthPlan

EFFICIENCY = {torch.float32: 0.6, torch.bfloat16: 0.45}
"""The share of the matrix products' speed that a step reaches. In bf16 it is 0.6 on an AMD EPYC with AVX-512, and less
where products alone are faster still, as with AMX."""


def forecast(source: Checkpoint, teacher: Checkpoint | None, options: HealOptions) -> Forecast:
    """What training a checkpoint in one process will take.

    Args:
        source: What is trained.
        teacher: What it learns from, if anything.
        options: How.
    """
    length = length_of(source.config, options.train_window)
    schedule = Schedule.of(options, length)
    tokens = schedule.steps * schedule.batch_tokens
    device = compute_device()
    dtype = torch.bfloat16 if is_bf16_fast(device) else torch.float32
    rate = EFFICIENCY[dtype] * matmul_flops(dtype, device)
    work = Work.of(source.plan, teacher.plan if teacher else None, length, options)
    held_out = schedule.held_out_sequences(MOST_HELD_OUT) * length
    parameters = costs.parameters(source.plan)
    load_s = 1 + 4 * (parameters + (costs.parameters(teacher.plan) if teacher else 0)) / 1e9
    steps = [
        Step(TEXT_STEP, 8 * slowness()),
        Step(LOAD_STEP, load_s * slowness()),
        Step(HELD_OUT_STEP, held_out * (work.held_out + work.teacher) / rate),
        Step(
            TRAIN_STEP,
            (tokens * work.token + schedule.evaluations(schedule.steps) * held_out * work.held_out) / rate
            + ((1 + tokens // options.eval_every) * evaluation_s(source.plan, options) if options.eval_every else 0.0),
        ),
        Step(WRITE_STEP, slowness() * (0.2 + 2 * parameters / 1e9)),
    ]
    # The teacher's predictions of held-out text are kept, as hidden states.
    kept = held_out * teacher.plan.hidden_size * dtype.itemsize if teacher else 0
    resident = PACKAGES_BYTES + memory_bytes(source.plan, options, length, dtype) + kept
    return Forecast(steps, tokens, resident)


def memory_bytes(plan: WidthPlan, options: HealOptions, length: int, dtype: torch.dtype) -> int:
    """The most bytes of tensors at once: weights, gradients, AdamW's two means, activations and logits.

    The teacher's weights and those that LoRA adapts are mapped files, which take no memory that others need.

    Args:
        plan: The student's widths.
        options: What is trained, and how much at once.
        length: Tokens of a sequence.
        dtype: The dtype of products.
    """
    parameters = costs.parameters(plan)
    embedding = plan.vocab_size * plan.hidden_size
    if options.lora:
        weights = 16 * options.lora * sum(4 * plan.hidden_size + 5 * layer.intermediate_size for layer in plan.layers)
    else:
        trained = parameters - (embedding if options.freeze_embedding else 0)
        # With --quant, exact weights are beside the rounded ones.
        weights = 4 * parameters + (16 if options.quant else 12) * trained
        weights += dtype.itemsize * parameters if dtype != torch.float32 else 0
    together = max(1, options.micro_batch_tokens // length) * length
    widths = [8 * plan.hidden_size + 3 * layer.intermediate_size + 4 * layer.attention_size for layer in plan.layers]
    kept = max(widths) + len(widths) * plan.hidden_size if options.gradient_checkpointing else sum(widths)
    # A residual is in fp32, and most of what projections give in the dtype of products.
    activations = together * kept * (4 + dtype.itemsize) // 2
    rows = min(together, BLOCK_TOKENS)
    head = plan.vocab_size * (16 * min(rows, CHUNK_TOKENS["cpu"]) + dtype.itemsize * rows) + 4 * embedding
    return weights + activations + head
