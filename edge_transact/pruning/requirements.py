"""What a pruning does and needs: its steps, memory and disk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.costs import Requirements, memory
from edge_transact.evaluation.models import REPORT_TEXTS
from edge_transact.evaluation.requirements import perplexity_steps
from edge_transact.formatting import megabytes
from edge_transact.healing.requirements import requirements as requirements_of_training
from edge_transact.inputs.shares import shares_of
from edge_transact.inputs.texts import is_whole, needed_characters
from edge_transact.layerwise.model import BATCH_TOKENS, LOGITS_TOKENS, computation_dtype
from edge_transact.layerwise.windows import window_of
from edge_transact.pruning.allocate.allocation import allocate
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.compensate import compensation, norms
from edge_transact.pruning.options import BUDGETS, PruneOptions, ShotTraining, find_method
from edge_transact.pruning.pruning import WIDTHS_STEP
from edge_transact.pruning.report import REPORT_STEP
from edge_transact.pruning.run import TEXT_STEP, WRITE_STEP, decided
from edge_transact.pruning.score import passes, sensitivity
from edge_transact.pruning.search import loop
from edge_transact.pruning.search.executor import workers
from edge_transact.pruning.search.space import LEVELS
from edge_transact.pruning.shots import shot_trainings
from edge_transact.pruning.units import GROUPS, MLP, QUERIES_KEYS, VALUES
from edge_transact.quantization import get_quantization
from edge_transact.reading import user_path
from edge_transact.selftext.texts import SELF
from edge_transact.system.computation import compute_device
from edge_transact.widths import WidthPlan, describe

TEXT_CHARACTERS, CHARACTER_BYTES = 5_600_000, 120
"""The characters of the default text, and the bytes for each that a tokenizer needs while it tokenizes a text."""


def requirements(
    source: Checkpoint, options: PruneOptions, training: ShotTraining | None = None, *, report_of: str | None = None
) -> Requirements:
    """What `prune` and the report after it do and need. Models count as large as the source in every shot.

    `options` and `training` are those of `prune`; `report_of` names the pruned model, if a report follows.
    """
    options, plan, stored = decided(options, source), source.plan, source.tensor(EMBEDDING).dtype
    trainings = [
        requirements_of_training(source, source if each.teacher else None, each)
        for each in (shot_trainings(training, options.shots, str(source.path), options.seed) if training else ())
    ]
    wants_losses = options.allocation != "uniform" and bool(limits_of(options, plan))
    steps = list(_steps(options, wants_losses, trainings))
    window = window_of(source, options.calibration_window)
    itemsize = computation_dtype(stored, compute_device()).itemsize
    tokens = options.calibration_tokens // window * window
    matrices = 8 if wants_losses else 4 if options.compensate else 0
    in_shots = memory.pruning_bytes(plan, tokens, itemsize, matrices, BATCH_TOKENS, LOGITS_TOKENS)
    if options.compensate:
        in_shots = max(in_shots, memory.norms_bytes(plan, tokens, itemsize, BATCH_TOKENS, LOGITS_TOKENS))
    resident = [memory.PACKAGES_BYTES + max(text_bytes(options.calibration, options.calibration_tokens), in_shots)]
    resident += [each.memory_bytes for each in trainings]
    if options.search:
        tokens += options.search_tokens // window * window
        head = 2 * plan.vocab_size * (plan.hidden_size + LOGITS_TOKENS) * itemsize
        states = (2 * loop.TOGETHER + 1) * options.search_tokens * plan.hidden_size * itemsize
        resident.append(memory.PACKAGES_BYTES + workers() * (memory.PACKAGES_BYTES + head + states))
    if report_of:
        steps += [*perplexity_steps(source.path.name, len(REPORT_TEXTS))]
        steps += [*perplexity_steps(report_of, len(REPORT_TEXTS)), REPORT_STEP]
        resident.append(memory.perplexity_bytes(plan))
    # The checkpoint, and for an interrupted run hidden states, with gradients the input of every layer.
    disk = costs.parameters(pruned_plan(plan, options)) * stored.itemsize
    has_gradients = find_method(options.method).gradients != "none"
    kept = (len(plan.layers) + 1) * min(tokens, passes.GRADIENT_TOKENS) if has_gradients else 2 * tokens
    disk += levels_bytes(plan, itemsize) if options.search else 0
    disk += kept * plan.hidden_size * itemsize + max((each.disk_bytes for each in trainings), default=0)
    return Requirements(steps, tokens + sum(each.tokens for each in trainings), max(resident), disk)


def levels_bytes(plan: WidthPlan, itemsize: int) -> int:
    """At most what a supernet takes on disk: the levels of both consuming projections, half as wide on average."""
    units = [MLP, VALUES, QUERIES_KEYS, GROUPS]
    mlp, *heads = (LEVELS.get(unit, LEVELS[None]) for unit in units)
    sizes = (mlp * layer.intermediate_size + math.prod(heads) * layer.attention_size for layer in plan.layers)
    return plan.hidden_size * sum(sizes) // 2 * itemsize


def _steps(options: PruneOptions, wants_losses: bool, trainings: Sequence[Requirements]) -> Iterator[str]:
    finish = [*([compensation.STEP, compensation.LAST_NORM_STEP, norms.STEP] if options.compensate else []), WRITE_STEP]
    parts = ("",) if find_method(options.method).gradients == "none" else (", forward", ", loss", ", backward")
    yield TEXT_STEP
    for shot in range(1, options.shots + 1):
        scoring = [passes.description(shot, options.shots) + part for part in parts]
        if shot > 1:
            yield from scoring
        elif wants_losses:
            yield from (*scoring, sensitivity.LAYERS_STEP, sensitivity.DIVERGENCE_STEP, WIDTHS_STEP)
        else:
            yield from (WIDTHS_STEP, *scoring)
        if options.search and shot == 1:
            yield loop.STEP
        if trainings:
            yield from (*finish, *trainings[shot - 1].steps)
    yield from [WRITE_STEP] if trainings else finish


def text_bytes(calibration: Sequence[str], tokens: int) -> int:
    """The bytes that a tokenizer needs for what is read of the largest text for so many tokens.

    What isn't a file counts as the default text.
    """
    sizes = [0]
    for share in shares_of(calibration):
        path = user_path(share.text)
        files = [path, *path.rglob("*")] if path.exists() else []
        if share.text != SELF:
            sizes.append(sum(file.stat().st_size for file in files if file.is_file()) if files else TEXT_CHARACTERS)
    return CHARACTER_BYTES * max(size if is_whole(size, tokens) else needed_characters(tokens) for size in sizes)


def has_known_widths(options: PruneOptions) -> bool:
    """Whether the options of `decided` say the pruned widths before anything is scored."""
    return options.allocation == "uniform" or options.budgets()[0] != BUDGETS[0]


def pruned_plan(plan: WidthPlan, options: PruneOptions) -> WidthPlan:
    """The pruned model's widths, or where these follow from scores, MLPs that are cut to the limits, all alike.

    `options` are those of `decided`. It counts as large as its source where such options limit the KV cache alone.
    """
    if has_known_widths(options):
        return allocate(options, plan).plan

    def with_mlps(kept: float) -> WidthPlan:
        sizes = [max(min(1, layer.intermediate_size), round(kept * layer.intermediate_size)) for layer in plan.layers]
        return plan.with_layers(
            [replace(layer, intermediate_size=size) for layer, size in zip(plan.layers, sizes, strict=True)]
        )

    smallest, kept = with_mlps(0.0), 1.0
    for limit in limits_of(options, plan):
        whole, least = limit.measure(plan), limit.measure(smallest)
        if whole > least:
            kept = min(kept, (limit.bound - least) / (whole - least))
    return with_mlps(max(kept, 0.0))


@dataclass(frozen=True)
class Target:
    """What a pruning aims at, as ``--dry-run`` says it: `facts` for people, `values` for ``--json``."""

    facts: dict[str, str]
    values: dict[str, Any]


def target_of(source: WidthPlan, options: PruneOptions) -> Target:
    """The limits of `decided`'s options in the source's own figures, and how large the result becomes."""
    plan, is_known, quantization = pruned_plan(source, options), has_known_widths(options), options.quant
    limits = limits_of(options, source)
    facts = {
        limit.asked: f"{limit.written(limit.bound)} {limit.unit}, of {limit.written(limit.measure(source))}"
        for limit in limits
    }
    ratio = costs.cut_ratio(plan, source)
    new, old = (costs.weight_bytes(each, get_quantization(quantization)) for each in (plan, source))
    new, about = (new, "") if is_known else (min(new, options.max_weight_bytes or new), "about ")
    if is_known or plan != source:
        facts["attention and MLP to remove"] = f"{about}{ratio:.1%}"
        facts["weights"] = f"{about}{megabytes(new)} of {megabytes(old)} in {quantization}"
    if is_known:
        facts |= dict(line.split(": ") for line in describe(plan))
    else:
        facts["widths"] = "follow from the scores"
    values = {
        "limits": [
            {"limit": limit.asked, "allowed": limit.bound, "source": limit.measure(source), "unit": limit.unit}
            for limit in limits
        ],
        "ratio": ratio,
        "weight_bytes": new,
        "source_weight_bytes": old,
        "widths": plan.to_list() if is_known else None,
    }
    return Target(facts, values)
