"""What a build does and needs: its steps, memory and disk."""

from __future__ import annotations

from edge_transact import costs
from edge_transact.building.dist import MANIFEST_STEP, OPEN_STEP, PARITY_STEP, compares_whole, first_layers
from edge_transact.building.options import CALIBRATED_ROUNDINGS, BuildOptions
from edge_transact.building.stages import compile_step
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.compiler.targets import get_target
from edge_transact.costs import Requirements, memory
from edge_transact.healing.options import HealOptions
from edge_transact.healing.requirements import requirements as requirements_of_training
from edge_transact.layerwise.model import BATCH_TOKENS, LOGITS_TOKENS, computation_dtype
from edge_transact.layerwise.windows import window_of
from edge_transact.pruning.options import PruneChoices
from edge_transact.pruning.requirements import requirements as requirements_of_pruning
from edge_transact.pruning.run import TEXT_STEP
from edge_transact.quantization import default_quantization, get_quantization
from edge_transact.rounding.calibrated import CODES_TOKENS, SCALES_TOKENS
from edge_transact.rounding.calibrated import STEP as ROUND_STEP
from edge_transact.rounding.gptq import CHUNK_ROWS
from edge_transact.system.computation import compute_device
from edge_transact.weights.convert import convert_step


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
    compared = plan if compares_whole(plan, runs) else first_layers(plan)
    stages = [memory.model_bytes(compared) + costs.loaded_weight_bytes(compared, quantization)]
    stages += [costs.loaded_weight_bytes(plan, quantization)] if runs else []
    # In the cache and in DIST.
    disk, tokens, steps = 2 * costs.weight_bytes(plan, quantization), 0, [OPEN_STEP]
    if options.rounding in CALIBRATED_ROUNDINGS:
        text, is_best = pruning or PruneChoices(), options.rounding == "best"
        tokens = text.calibration_tokens
        of_codes, of_scales = (min(tokens, CODES_TOKENS) if is_best else tokens), min(tokens, SCALES_TOKENS)
        itemsize = computation_dtype(source.tensor(EMBEDDING).dtype, compute_device()).itemsize
        stages.append(memory.codes_bytes(plan, of_codes, itemsize, BATCH_TOKENS, CHUNK_ROWS))
        if is_best:
            # That it names what it was pruned from is enough: finding that can take long.
            teachers = 1 + (bool(pruning and pruning.budgets()) or (source.path / PROVENANCE_FILE).is_file())
            window = window_of(source, text.calibration_window)
            stages.append(memory.scales_bytes(plan, quantization, of_scales, window, itemsize, LOGITS_TOKENS, teachers))
        # A byte for each weight's code, while they are chosen and then in the cache.
        disk += 2 * costs.parameters(plan)
        steps += [TEXT_STEP, ROUND_STEP]
    steps += [convert_step(quantization), *map(compile_step, targets), PARITY_STEP, MANIFEST_STEP]
    resident = memory.PACKAGES_BYTES + memory.COMPILER_BYTES + max(stages)
    *earlier, last = *before, Requirements(steps, tokens, resident, disk)
    return earlier[0].then(*earlier[1:], last) if earlier else last


def has_library(options: BuildOptions) -> bool:
    """Whether a build makes a library that this machine can run."""
    return "host" in options.target and (options.cpu is None or get_target("host", cpu=options.cpu).runs_here())
