"""What a build does and needs: its steps, and its memory and disk from widths and options."""

from __future__ import annotations

from edge_transact import costs
from edge_transact.building.dist import CUT_LAYERS, MANIFEST_STEP, OPEN_STEP, PARITY_STEP, compares_whole
from edge_transact.building.options import CALIBRATED_ROUNDINGS, BuildOptions
from edge_transact.building.stages import compile_step
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.compiler.targets import get_target
from edge_transact.costs import Requirements
from edge_transact.evaluation.requirements import loaded_bytes
from edge_transact.healing.options import HealOptions
from edge_transact.healing.requirements import requirements as requirements_of_training
from edge_transact.layerwise.model import computation_dtype
from edge_transact.layerwise.windows import window_of
from edge_transact.pruning.options import PruneChoices
from edge_transact.pruning.requirements import requirements as requirements_of_pruning
from edge_transact.pruning.run import TEXT_STEP
from edge_transact.quantization import Quantization, default_quantization, get_quantization
from edge_transact.rounding.best import CODES_TOKENS, SCALES_TOKENS
from edge_transact.rounding.calibrated import STEP as ROUND_STEP
from edge_transact.rounding.memory import bytes_of_codes, bytes_of_scales
from edge_transact.system import memory
from edge_transact.system.computation import compute_device
from edge_transact.weights.convert import convert_step

COMPILER_BYTES = 230 << 20
"""What a process has resident for TVM, besides `memory.PACKAGES_BYTES`, once it has compiled a kernel."""


def requirements(
    source: Checkpoint, options: BuildOptions, pruning: PruneChoices | None = None, healing: HealOptions | None = None
) -> Requirements:
    """What `build` does and needs, as if the cache had nothing of it, without a report.

    A pruned model counts as large as its source, also where memory decides how much of it is compared with torch.
    """
    plan, targets = source.plan, list(dict.fromkeys(options.target))
    quantization = get_quantization(options.quant or default_quantization(targets))
    before: list[Requirements] = []
    if pruning and pruning.budgets():
        budget = pruning.counted(quantization.name, options.context or costs.DEFAULT_CONTEXT)
        before.append(requirements_of_pruning(source, budget))
    if healing:
        before.append(requirements_of_training(source, source, healing))
    runs = has_library(options)
    compared = plan if compares_whole(plan, runs) else plan.with_layers(plan.layers[:CUT_LAYERS])
    both = loaded_bytes(compared) + costs.loaded_weight_bytes(compared, quantization)
    stages = [both, costs.loaded_weight_bytes(plan, quantization) if runs else 0]
    # In the cache and in DIST.
    disk, tokens = 2 * costs.weight_bytes(plan, quantization), 0
    steps = [step for each in before for step in each.steps] + [OPEN_STEP]
    if options.rounding in CALIBRATED_ROUNDINGS:
        text = pruning or PruneChoices()
        tokens = text.calibration_tokens
        # That it names what it was pruned from is enough: finding that can take long.
        has_teacher = bool(pruning and pruning.budgets()) or (source.path / PROVENANCE_FILE).is_file()
        stages.append(_rounding_bytes(source, quantization, options.rounding == "best", text, 1 + has_teacher))
        # A byte for each weight's code, while they are chosen and then in the cache.
        disk += 2 * costs.parameters(plan)
        steps += [TEXT_STEP, ROUND_STEP]
    steps += [convert_step(quantization), *map(compile_step, targets), PARITY_STEP, MANIFEST_STEP]
    return Requirements(
        steps,
        tokens + sum(each.tokens for each in before),
        max([memory.PACKAGES_BYTES + COMPILER_BYTES + max(stages), *(each.memory_bytes for each in before)]),
        disk + sum(each.disk_bytes for each in before),
    )


def has_library(options: BuildOptions) -> bool:
    """Whether a build makes a library that this machine can run."""
    return "host" in options.target and (options.cpu is None or get_target("host", cpu=options.cpu).runs_here())


def _rounding_bytes(
    source: Checkpoint, quantization: Quantization, best: bool, text: PruneChoices, teachers: int
) -> int:
    """The most bytes of tensors while codes and scales are chosen on a text; ``best`` aims at so many teachers."""
    dtype = computation_dtype(source.tensor(EMBEDDING).dtype, compute_device())
    tokens = text.calibration_tokens
    codes = bytes_of_codes(source.plan, min(tokens, CODES_TOKENS) if best else tokens, dtype)
    if not best:
        return codes
    window, tokens = window_of(source, text.calibration_window), min(tokens, SCALES_TOKENS)
    return max(codes, bytes_of_scales(source.plan, quantization, tokens, window, dtype, teachers))
