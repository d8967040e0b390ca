"""What a training does and needs: its steps, memory and disk."""

from __future__ import annotations

from edge_transact import costs
from edge_transact.architecture.matrices import matrices_of
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.costs import Requirements, memory
from edge_transact.evaluation.requirements import perplexity_steps
from edge_transact.healing.losses import BLOCK_TOKENS, CHUNK_TOKENS
from edge_transact.healing.options import HealOptions
from edge_transact.healing.run import LOAD_STEP, ROUND_STEP, TEXT_STEP, WRITE_STEP, text_of
from edge_transact.healing.schedule import Schedule
from edge_transact.healing.text import MOST_HELD_OUT
from edge_transact.healing.train import HELD_OUT_STEP, TRAIN_STEP
from edge_transact.inputs.shares import names_of
from edge_transact.layerwise.windows import window_of
from edge_transact.selftext.texts import SELF
from edge_transact.system.computation import compute_device, is_bf16_fast


def check_texts(source: Checkpoint, options: HealOptions) -> None:
    """Raises what reading the training text raises. Text that the model writes itself isn't written for that."""
    if SELF not in names_of(options.texts):
        text_of(source, options)


def requirements(
    source: Checkpoint, teacher: Checkpoint | None, options: HealOptions, *, report_of: str | None = None
) -> Requirements:
    """Of training a checkpoint in one process. `report_of` names the model if a report follows."""
    plan, length = source.plan, window_of(source, options.train_window, "--train-window")
    schedule = Schedule.of(options, length)
    tokens, together = schedule.steps * schedule.batch_tokens, schedule.together * length
    itemsize = 2 if is_bf16_fast(compute_device()) else 4
    parameters = costs.parameters(plan)
    trained = parameters - (plan.vocab_size * plan.hidden_size if options.freeze_embedding else 0)
    if options.lora:
        shapes = (matrix.shape(plan, layer) for layer in plan.layers for matrix in matrices_of(plan, layer))
        trained = options.lora * sum(map(sum, shapes))
    steps = [TEXT_STEP, LOAD_STEP, *([ROUND_STEP] if options.quant else []), HELD_OUT_STEP, TRAIN_STEP, WRITE_STEP]
    # The teacher's predictions of held-out text are kept, as hidden states.
    held_out = schedule.held_out_sequences(MOST_HELD_OUT) * length
    resident = memory.PACKAGES_BYTES + (held_out * teacher.plan.hidden_size * itemsize if teacher else 0)
    resident += memory.activations_in_training_bytes(
        plan, together, itemsize, BLOCK_TOKENS, CHUNK_TOKENS["cpu"], recomputes=options.gradient_checkpointing
    )
    # Gradients and AdamW's two means; through a grid, exact weights beside the rounded ones. Under LoRA, weights are
    # mapped files, as the teacher's are, which take no memory that others need.
    resident += (16 if options.lora or options.quant else 12) * trained
    resident += 0 if options.lora else (memory.FP32 + itemsize % memory.FP32) * parameters
    # The checkpoint; weights and AdamW's means of a snapshot, and the best step's weights.
    disk = parameters * source.tensor(EMBEDDING).dtype.itemsize
    disk += 16 * trained
    if report_of:
        models = [*([teacher] if teacher else []), source]
        steps += [step for name in (*(each.path.name for each in models), report_of) for step in perplexity_steps(name)]
        resident = max(resident, *(memory.perplexity_bytes(each.plan) for each in models))
    return Requirements(steps, tokens, resident, disk)
