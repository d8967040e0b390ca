"""What a build will take on this machine: its steps, their time and its memory, from formulas."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from edge_transact import costs
from edge_transact.build.dist import CUT_LAYERS, MANIFEST_STEP, OPEN_STEP, PARITY_STEP, compares_whole
from edge_transact.build.options import CALIBRATED_ROUNDINGS, BuildOptions
from edge_transact.build.report.measure import PART_WINDOW, PART_WINDOWS, PARTS_STEP, PREDICTIONS_STEP, WINDOW, WINDOWS
from edge_transact.build.report.page import FIGURES_STEP
from edge_transact.build.stages import compile_step
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.compiler.library import KERNELS_STEP
from edge_transact.compiler.targets import get_target
from edge_transact.evaluate.forecast import loaded_bytes
from edge_transact.evaluate.perplexity import STEP as PERPLEXITY_STEP
from edge_transact.heal.forecast import forecast as forecast_of_training
from edge_transact.heal.options import HealOptions
from edge_transact.layerwise.model import computation_dtype
from edge_transact.layerwise.windows import window_of
from edge_transact.progress import Forecast, Step
from edge_transact.prune.forecast import forecast as forecast_of_pruning
from edge_transact.prune.options import PruneChoices
from edge_transact.prune.run import TEXT_STEP
from edge_transact.quantization import Quantization, default_quantization, get_quantization
from edge_transact.rounding.best import CODES_TOKENS, SCALES_TOKENS
from edge_transact.rounding.calibrated import STEP as ROUND_STEP
from edge_transact.rounding.distillation import STEP as DISTILL_STEP
from edge_transact.rounding.memory import bytes_of_codes, bytes_of_scales
from edge_transact.system import memory
from edge_transact.system.computation import compute_device
from edge_transact.system.cores import cores
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.weights.convert import convert_step
from edge_transact.widths import WidthPlan

WEIGHTS_PER_S = {"nearest": 100e6, "search": 50e6}
"""Weights that are rounded and written in a second, where `slowness` is 1; by rounding."""

COMPILE_S, COMPILE_LAYER_S = 20.0, 1.0
"""Seconds of one core to compile a library, and each of its layers that no other layer is like; there, too."""

KERNELS_SHARE = 0.6
"""The share of a host library's in which its kernels are compiled."""

EFFICIENCY = {torch.float32: 1.0, torch.bfloat16: 0.65}
"""The share of the matrix products' speed that rounding on calibration text reaches."""

COMPILER_BYTES = 230 << 20
"""What a process has resident for TVM, besides `memory.PACKAGES_BYTES`, once it has compiled a kernel."""


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
        pruning: As it is given to `build`. The pruned model counts as large as its source, also where memory decides
            how much of it is compared with torch.
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
    work = _Work(source.plan, options, quantization, has_library(options))
    steps.append(Step(OPEN_STEP, 1.5 * work.slowness))
    stages = [work.parity_bytes()]
    if options.rounding in CALIBRATED_ROUNDINGS:
        text = pruning or PruneChoices()
        tokens += text.calibration_tokens
        steps += work.round(text.calibration_tokens, _dtype(source))
        # That it names what it was pruned from is enough: finding that can take long.
        has_teacher = bool(pruning and pruning.budgets()) or (source.path / PROVENANCE_FILE).is_file()
        stages.append(work.rounding_bytes(source, text, teachers=1 + has_teacher))
    steps += work.convert(source.plan)
    for target in targets:
        steps += work.compile(source.plan, target)
    steps += work.parity()
    steps.append(Step(MANIFEST_STEP, 0.1))
    if report:
        steps += work.report(options.rounding or "search")
    resident = memory.PACKAGES_BYTES + COMPILER_BYTES + max(stages)
    return Forecast(steps, tokens, max(memory_bytes, resident))


def has_library(options: BuildOptions) -> bool:
    """Whether a build makes a library that this machine can run."""
    return "host" in options.target and (options.cpu is None or get_target("host", cpu=options.cpu).runs_here())


def _dtype(source: Checkpoint) -> torch.dtype:
    """The dtype in which rounding computes."""
    return computation_dtype(source.tensor(EMBEDDING).dtype, compute_device())


class _Work:
    """The work of a build.

    Attributes:
        slowness: How many times as long work takes as where the figures above were measured.
    """

    def __init__(self, plan: WidthPlan, options: BuildOptions, quantization: Quantization, has_library: bool) -> None:
        self._plan, self._options, self._quantization = plan, options, quantization
        self._has_library, self._compares_whole = has_library, compares_whole(plan, has_library)
        self._rate = matmul_flops(torch.float32, torch.device("cpu"))
        self.slowness = slowness()
        self._head = 2 * plan.hidden_size * plan.vocab_size

    def convert(self, plan: WidthPlan) -> Iterator[Step]:
        """Rounding and packing of all weights."""
        searched = self._options.rounding in (None, "search") and self._quantization.bits is not None
        yield self._convert(plan, "search" if searched else "nearest")

    def _convert(self, plan: WidthPlan, rounding: str) -> Step:
        seconds = costs.parameters(plan) / WEIGHTS_PER_S[rounding] * self.slowness
        return Step(convert_step(self._quantization), 0.3 * self.slowness + seconds)

    def compile(self, plan: WidthPlan, target: str) -> Iterator[Step]:
        """A library. The kernels of one for this host are a step of their own, on all cores."""
        seconds = (COMPILE_S + COMPILE_LAYER_S * len(set(plan.layers))) * self.slowness
        kernels = KERNELS_SHARE if target == "host" and self._options.engine == "tvm" else 0.0
        yield Step(compile_step(target), (1 - kernels) * seconds)
        if kernels:
            yield Step(KERNELS_STEP, kernels * seconds / cores().threads)

    def round(self, tokens: int, dtype: torch.dtype) -> Iterator[Step]:
        """Rounding on calibration text, and distillation after it; `dtype` is that of the computation."""
        best = self._options.rounding == "best"
        rate = matmul_flops(dtype, compute_device()) * EFFICIENCY[dtype]
        yield Step(TEXT_STEP, 6 * self.slowness)
        products = 3 * self._forward(min(tokens, CODES_TOKENS) if best else tokens)
        sizes = [size for layer in self._plan.layers for size in (self._plan.hidden_size, layer.intermediate_size)]
        yield Step(ROUND_STEP, products / rate + sum(4 * size**3 for size in sizes) / self._rate)
        if best:
            yield Step(DISTILL_STEP, 6 * self._forward(min(tokens, SCALES_TOKENS), heads=1) / rate)

    def _forward(self, tokens: int, heads: int = 0) -> float:
        windows = max(1, tokens // WINDOW)
        return windows * (costs.prefill_flops(self._plan, WINDOW) + heads * WINDOW * self._head)

    def parity(self) -> Iterator[Step]:
        """The comparison with torch, for which the first layers are built if the whole model isn't compared."""
        if not self._compares_whole:
            yield from self.convert(self._compared)
            yield from self.compile(self._compared, "host")
        yield Step(PARITY_STEP, (1 + loaded_bytes(self._compared) / 0.17e9) * self.slowness)

    @property
    def _compared(self) -> WidthPlan:
        """What is compared with torch."""
        plan = self._plan
        return plan if self._compares_whole else plan.with_layers(plan.layers[:CUT_LAYERS])

    def parity_bytes(self) -> int:
        """The bytes of both models that are compared, or of a library's whole weights, if it runs afterwards."""
        compared = loaded_bytes(self._compared) + costs.loaded_weight_bytes(self._compared, self._quantization)
        whole = costs.loaded_weight_bytes(self._plan, self._quantization) if self._has_library else 0
        return max(compared, whole)

    def rounding_bytes(self, source: Checkpoint, text: PruneChoices, teachers: int) -> int:
        """The most bytes of tensors of `round`.

        Args:
            source: The checkpoint.
            text: The calibration text.
            teachers: How many models' predictions ``best`` aims at.
        """
        best, tokens = self._options.rounding == "best", text.calibration_tokens
        dtype = _dtype(source)
        codes = bytes_of_codes(self._plan, min(tokens, CODES_TOKENS) if best else tokens, dtype)
        if not best:
            return codes
        window, tokens = window_of(source, text.calibration_window), min(tokens, SCALES_TOKENS)
        return max(codes, bytes_of_scales(self._plan, self._quantization, tokens, window, dtype, teachers))

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
