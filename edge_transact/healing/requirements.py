"""What a training does and needs: its steps, and its memory and disk from widths and options."""

from __future__ import annotations

import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.costs import Requirements
from edge_transact.evaluation.requirements import perplexity_bytes, perplexity_steps
from edge_transact.healing.losses import BLOCK_TOKENS, CHUNK_TOKENS
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import LOAD_STEP, ROUND_STEP, TEXT_STEP, WRITE_STEP
from edge_transact.healing.schedule import Schedule, length_of
from edge_transact.healing.text.stream import MOST_HELD_OUT
from edge_transact.healing.train import HELD_OUT_STEP, TRAIN_STEP
from edge_transact.system.computation import compute_device, is_bf16_fast
from edge_transact.system.memory import PACKAGES_BYTES
from edge_transact.widths import WidthPlan


def requirements(
    source: Checkpoint, teacher: Checkpoint | None, options: HealOptions, *, report_of: str | None = None
) -> Requirements:
    """The steps, memory and disk of training a checkpoint in one process; `report_of` names the model if a report
    follows."""
    length = length_of(source.config, options.train_window)
    schedule = Schedule.of(options, length)
    tokens = schedule.steps * schedule.batch_tokens
    dtype = torch.bfloat16 if is_bf16_fast(compute_device()) else torch.float32
    rounding = [ROUND_STEP] if options.quant else []
    steps = [TEXT_STEP, LOAD_STEP, *rounding, HELD_OUT_STEP, TRAIN_STEP, WRITE_STEP]
    # The teacher's predictions of held-out text are kept, as hidden states.
    held_out = schedule.held_out_sequences(MOST_HELD_OUT) * length
    kept = held_out * teacher.plan.hidden_size * dtype.itemsize if teacher else 0
    # The checkpoint; weights and AdamW's means of a snapshot, and the best step's weights; the teacher's predictions.
    disk = costs.parameters(source.plan) * source.tensor(EMBEDDING).dtype.itemsize
    disk += 16 * trained_parameters(source.plan, options) + (tokens + held_out) * 6 * (options.teacher_top or 0)
    resident = PACKAGES_BYTES + memory_bytes(source.plan, options, length, dtype) + kept
    if report_of:
        models = [*([teacher] if teacher else []), source]
        steps += [step for name in (*(each.path.name for each in models), report_of) for step in perplexity_steps(name)]
        resident = max(resident, *(PACKAGES_BYTES + perplexity_bytes(each.plan) for each in models))
    return Requirements(steps, tokens, resident, disk)


def trained_parameters(plan: WidthPlan, options: HealOptions) -> int:
    """How many parameters are trained."""
    if options.lora:
        return options.lora * sum(4 * plan.hidden_size + 5 * layer.intermediate_size for layer in plan.layers)
    return costs.parameters(plan) - (plan.vocab_size * plan.hidden_size if options.freeze_embedding else 0)


def memory_bytes(plan: WidthPlan, options: HealOptions, length: int, dtype: torch.dtype) -> int:
    """The most bytes of tensors at once: weights, gradients, AdamW's two means, activations and logits.

    The teacher's weights and those under LoRA are mapped files, which take no memory that others need. `length` is in
    tokens, and `dtype` that of products.
    """
    parameters, trained = costs.parameters(plan), trained_parameters(plan, options)
    embedding = plan.vocab_size * plan.hidden_size
    weights = 16 * trained
    if not options.lora:
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
