"""What a build will take on this machine: its steps, their time and its memory, from formulas."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from edge_transact import costs
from edge_transact.build.dist import CUT_LAYERS, MANIFEST_STEP, OPEN_STEP, PARITY_STEP
from edge_transact.build.options import CALIBRATED_ROUNDINGS, BuildOptions
from edge_transact.build.report.measure import PART_WINDOW, PART_WINDOWS, PARTS_STEP, PREDICTIONS_STEP, WINDOW, WINDOWS
from edge_transact.build.report.page import FIGURES_STEP
from edge_transact.build.stages import compile_step
from edge_transact.checkpoint import Checkpoint
from edge_transact.evaluate.forecast import loaded_bytes
from edge_transact.evaluate.perplexity import STEP as PERPLEXITY_STEP
from edge_transact.heal.forecast import forecast as forecast_of_training
from edge_transact.heal.options import HealOptions
from edge_transact.progress import Forecast, Step
from edge_transact.prune.forecast import forecast as forecast_of_pruning
from edge_transact.prune.options import PruneChoices
from edge_transact.prune.run import TEXT_STEP
from edge_transact.quantization import Quantization, default_quantization, get_quantization
from edge_transact.rounding.best import CODES_TOKENS, SCALES_TOKENS
from edge_transact.rounding.calibrated import STEP as ROUND_STEP
from edge_transact.rounding.distillation import STEP as DISTILL_STEP
from edge_transact.system import memory
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.weights.convert import convert_step
from edge_transact.widths import WidthPlan

WEIGHTS_PER_S = {"nearest": 100e6, "search": 32e6}
"""Weights that are rounded and written in a second, where `slowness` is 1; by rounding."""

COMPILE_S, COMPILE_LAYER_S = 20.0, 1.0
"""Seconds to compile a library, and each of its layers that no other layer is like; there, too."""


def forecast(
    source: Checkpoint,
    options: BuildOptions,
    pruning: PruneChoices | None = None,
    healing: HealOptions | None = None,
    *,
    report: bool = False,
) -> Forecast:
    """What `build` will take, as if the cache had nothing of it.

    Args:
        source: The MODEL's checkpoint.
        options: As they are given to `build`.
        pruning: As it is given to `build`. The pruned model counts as large as its source.
        healing: As it is given to `build`.
        report: Whether a report is written.
    """
    targets = list(dict.fromkeys(options.target))
    quantization = get_quantization(options.quant or default_quantization(targets))
    steps: list[Step] = []
    tokens, memory_bytes = 0, 0
    if pruning and pruning.budgets():
        budget = pruning.counted(quantization.name, options.context or costs.DEFAULT_CONTEXT)
        first = forecast_of_pruning(source, budget)
        steps, tokens, memory_bytes = list(first.steps), first.tokens, first.memory_bytes
    if healing:
        second = forecast_of_training(source, source, healing)
        steps += second.steps
        tokens += second.tokens
        memory_bytes = max(memory_bytes, second.memory_bytes)
    work = _Work(source.plan, options, quantization)
    steps.append(Step(OPEN_STEP, 2 * work.slowness))
    if options.rounding in CALIBRATED_ROUNDINGS:
        read = (pruning or PruneChoices()).calibration_tokens
        tokens += read
        steps += work.round(read)
    steps += work.convert(source.plan)
    steps += [Step(compile_step(target), work.compile_s(source.plan)) for target in targets]
    steps += work.parity("host" in targets)
    steps.append(Step(MANIFEST_STEP, 0.5))
    if report:
        steps += work.report(options.rounding or "search")
    resident = memory.PACKAGES_BYTES + loaded_bytes(source.plan) + costs.weight_bytes(source.plan, quantization)
    return Forecast(steps, tokens, max(memory_bytes, resident))


class _Work:
    """The work of a build.

    Attributes:
        slowness: How many times as long work takes as where the figures above were measured.
    """

    def __init__(self, plan: WidthPlan, options: BuildOptions, quantization: Quantization) -> None:
        self._plan, self._options, self._quantization = plan, options, quantization
        self._rate = matmul_flops(torch.float32, torch.device("cpu"))
        self.slowness = slowness()
        self._head = 2 * plan.hidden_size * plan.vocab_size

    def convert(self, plan: WidthPlan) -> Iterator[Step]:
        """Rounding and packing of all weights."""
        searched = self._options.rounding in (None, "search") and self._quantization.bits is not None
        yield self._convert(plan, "search" if searched else "nearest")

    def _convert(self, plan: WidthPlan, rounding: str) -> Step:
        seconds = costs.parameters(plan) / WEIGHTS_PER_S[rounding] * self.slowness
        return Step(convert_step(self._quantization), 0.5 + seconds)

    def compile_s(self, plan: WidthPlan) -> float:
        """Seconds to compile a library."""
        return (COMPILE_S + COMPILE_LAYER_S * len(set(plan.layers))) * self.slowness

    def round(self, tokens: int) -> Iterator[Step]:
        """Rounding on calibration text, and distillation after it."""
        best = self._options.rounding == "best"
        yield Step(TEXT_STEP, 8 * self.slowness)
        products = 3 * self._forward(min(tokens, CODES_TOKENS) if best else tokens)
        sizes = [size for layer in self._plan.layers for size in (self._plan.hidden_size, layer.intermediate_size)]
        yield Step(ROUND_STEP, (products + sum(10 * size**3 for size in sizes)) / self._rate)
        if best:
            yield Step(DISTILL_STEP, 6 * self._forward(min(tokens, SCALES_TOKENS), heads=1) / self._rate)

    def _forward(self, tokens: int, heads: int = 0) -> float:
        windows = max(1, tokens // WINDOW)
        return windows * (costs.prefill_flops(self._plan, WINDOW) + heads * WINDOW * self._head)

    def parity(self, whole: bool) -> Iterator[Step]:
        """The comparison with torch, for which the first layers are built if there is no library for this host."""
        plan = self._plan
        if not whole:
            plan = plan.with_layers(plan.layers[:CUT_LAYERS])
            yield from self.convert(plan)
            yield Step(compile_step("host"), self.compile_s(plan))
        yield Step(PARITY_STEP, (2 + loaded_bytes(plan) / 0.13e9) * self.slowness)

    def report(self, rounding: str) -> Iterator[Step]:
        """The report of what rounding cost, next to the roundings without text."""
        others = [name for name in WEIGHTS_PER_S if name != rounding]
        yield from (self._convert(self._plan, name) for name in others)
        roundings, layers = len({*WEIGHTS_PER_S, rounding}), self._plan.num_hidden_layers
        parts = self._forward(PART_WINDOWS * PART_WINDOW) * roundings * (layers / 2 + 2)
        yield Step(PARTS_STEP, (parts + self._forward(WINDOWS * WINDOW) * (roundings + 1)) / self._rate)
        heads = PART_WINDOWS * PART_WINDOW * roundings * (layers + 1) * self._head
        yield Step(PREDICTIONS_STEP, 1.5 * heads / self._rate)
        for _ in range(roundings + 1):
            yield Step(PERPLEXITY_STEP, 2 * WINDOWS * WINDOW * self._head / self._rate)
        yield Step(FIGURES_STEP, self.slowness)
