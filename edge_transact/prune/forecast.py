"""What a pruning will take on this machine: its steps, their time and its memory, from formulas.

Time is FLOPs over the speed of a matrix product that is measured now. Each step has a factor for all that isn't a
product, such as softmax and sorting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.evaluate.forecast import loaded_bytes, logits_bytes, perplexity_steps
from edge_transact.evaluate.report_text import WINDOWS
from edge_transact.heal.forecast import forecast as forecast_of_training
from edge_transact.inputs.shares import shares_of
from edge_transact.layerwise.model import BATCH_TOKENS, LOGITS_TOKENS, computation_dtype
from edge_transact.layerwise.windows import WINDOW, window_of
from edge_transact.progress import Forecast, Step
from edge_transact.prune.allocate.budget import limits_of
from edge_transact.prune.compensate import compensation, last_norm
from edge_transact.prune.methods import find_method
from edge_transact.prune.options import PruneOptions, ShotTraining
from edge_transact.prune.pruning import WIDTHS_STEP
from edge_transact.prune.run import TEXT_STEP, WRITE_STEP, resolved
from edge_transact.prune.score import passes, sensitivity
from edge_transact.prune.shots import shot_trainings
from edge_transact.selftext.texts import SELF
from edge_transact.system.computation import compute_device
from edge_transact.system.memory import PACKAGES_BYTES
from edge_transact.system.speed import matmul_flops, slowness
from edge_transact.widths import LayerWidths, WidthPlan

REPORT_STEP = "figures"
"""Of the report, after both models' perplexity."""


TEXT_CHARACTERS, CHARACTER_BYTES = 5_600_000, 120
"""The characters of the default text, and the bytes for each that a tokenizer needs while it tokenizes a text."""


def forecast(
    source: Checkpoint,
    options: PruneOptions,
    training: ShotTraining | None = None,
    *,
    report_of: str | None = None,
) -> Forecast:
    """What `prune` will take, and the report after it. Models count as large as the source in every shot.

    Args:
        source: The model to prune.
        options: As they are given to `prune`.
        training: As it is given to `prune`.
        report_of: The name of the pruned model, if a report follows.
    """
    options = resolved(options)
    trainings = [
        forecast_of_training(source, source if each.teacher else None, each)
        for each in (shot_trainings(training, options.shots, str(source.path), options.seed) if training else ())
    ]
    work = _Work(source, options, trainings)
    steps = [*work.steps(), *(_report_steps(source, pruned_plan(source.plan, options), report_of) if report_of else ())]
    stages = [text_bytes(options.calibration), work.memory_bytes()]
    if report_of:
        stages.append(loaded_bytes(source.plan) + logits_bytes(source.plan, WINDOW))
    tokens = work.tokens + sum(each.tokens for each in trainings)
    return Forecast(steps, tokens, max([PACKAGES_BYTES + max(stages), *(each.memory_bytes for each in trainings)]))


def text_bytes(calibration: Sequence[str]) -> int:
    """The bytes that a tokenizer needs for the largest text; what isn't a file counts as the default text."""
    sizes = [0]
    for share in shares_of(calibration):
        path = Path(share.text).expanduser()
        files = [path, *path.rglob("*")] if path.exists() else []
        if share.text != SELF:
            sizes.append(sum(file.stat().st_size for file in files if file.is_file()) if files else TEXT_CHARACTERS)
    return CHARACTER_BYTES * max(sizes)


def pruned_plan(plan: WidthPlan, options: PruneOptions) -> WidthPlan:
    """About what a pruned model will cost, as if its MLPs alone were cut to its limits, all alike.

    Args:
        plan: The source's widths.
        options: As they are given to `prune`. Where they name the widths themselves, or limit the KV cache alone, the
            pruned model counts as large as its source.
    """

    def with_mlps(kept: float) -> WidthPlan:
        sizes = [max(1, round(kept * layer.intermediate_size)) for layer in plan.layers]
        return plan.with_layers(
            [replace(layer, intermediate_size=size) for layer, size in zip(plan.layers, sizes, strict=True)]
        )

    smallest, kept = with_mlps(0.0), 1.0
    for limit in limits_of(options, plan):
        whole, least = limit.measure(plan), limit.measure(smallest)
        if whole > least:
            kept = min(kept, (limit.bound - least) / (whole - least))
    return with_mlps(max(kept, 0.0))


def _report_steps(source: Checkpoint, pruned: WidthPlan, name_of_pruned: str) -> Iterator[Step]:
    for plan, name in ((source.plan, source.path.name), (pruned, name_of_pruned)):
        yield from perplexity_steps(plan, name, WINDOWS, WINDOW)
    yield Step(REPORT_STEP, slowness() * (0.1 + 0.01 * source.plan.num_hidden_layers))


class _Work:
    """The work of a pruning with resolved options.

    Attributes:
        tokens: Calibration tokens; a text may have fewer.
    """

    def __init__(self, source: Checkpoint, options: PruneOptions, trainings: Sequence[Forecast]) -> None:
        self._plan, self._options, self._trainings = source.plan, options, trainings
        self._method = find_method(options.method)
        self._wants_losses = options.allocation != "uniform" and bool(limits_of(options, source.plan))
        device = compute_device()
        self._dtype = computation_dtype(source.tensor(EMBEDDING).dtype, device)
        self._rate = matmul_flops(self._dtype, device)
        self._sums_rate = matmul_flops(torch.float32, device)
        self._window = window_of(source, options.calibration_window)
        self.tokens = options.calibration_tokens // self._window * self._window

    def steps(self) -> Iterator[Step]:
        """The steps in order, by the descriptions of their bars."""
        options = self._options
        yield Step(TEXT_STEP, 6 * slowness() + 3 * self._forward(self._written()) / self._rate)
        for shot in range(1, options.shots + 1):
            yield from self._score(passes.description(shot, options.shots))
            if shot == 1 and self._wants_losses:
                yield from self._sensitivity()
                mlps = sum(layer.intermediate_size for layer in self._plan.layers)
                yield Step(WIDTHS_STEP, 6e-5 * mlps * slowness())
            if self._trainings:
                yield from self._finish()
                yield from self._trainings[shot - 1].steps
        yield from self._finish() if not self._trainings else [self._write()]

    def _finish(self) -> Iterator[Step]:
        if self._options.compensate:
            yield from self._compensate()
        yield self._write()

    def _write(self) -> Step:
        return Step(WRITE_STEP, slowness() * (0.2 + 2 * costs.parameters(self._plan) / 1e9))

    def _written(self) -> int:
        """Calibration tokens that the model writes itself."""
        shares = shares_of(self._options.calibration)
        written = sum(share.weight for share in shares if share.text == SELF)
        return round(self.tokens * written / sum(share.weight for share in shares))

    def _score(self, description: str) -> Iterator[Step]:
        tokens = min(self.tokens, passes.GRADIENT_TOKENS)
        if self._method.gradients == "none":
            yield Step(description, 1.5 * self._forward(self.tokens) / self._rate)
            return
        yield Step(f"{description}, forward", 1.5 * self._forward(tokens) / self._rate)
        yield Step(f"{description}, loss", 2.5 * self._head(tokens) / self._rate)
        backward = 3 * self._forward(tokens) / self._rate
        eliminations = sum(8 * layer.intermediate_size**3 for layer in self._plan.layers) if self._wants_losses else 0
        yield Step(f"{description}, backward", backward + (self._sums(tokens) + eliminations) / self._sums_rate)

    def _sensitivity(self) -> Iterator[Step]:
        tokens = min(max(round(self.tokens * sensitivity.SHARE), sensitivity.WINDOW), sensitivity.MOST_TOKENS)
        layers = self._plan.num_hidden_layers
        yield Step(sensitivity.LAYERS_STEP, 2 * (layers + 1) * self._forward(tokens) / self._rate)
        yield Step(sensitivity.DIVERGENCE_STEP, 1.5 * (2 * layers + 1) * self._head(tokens) / self._rate)

    def _compensate(self) -> Iterator[Step]:
        products = 3 * self._forward(self.tokens) / self._rate
        solutions = sum(8 * size**3 for layer in self._plan.layers for size in _inputs(layer))
        yield Step(compensation.STEP, products + (self._sums(self.tokens) + solutions) / self._sums_rate)
        tokens = min(self.tokens, last_norm.TOKENS)
        yield Step(last_norm.STEP, 4 * self._head(tokens) / self._rate)

    def _forward(self, tokens: int) -> float:
        """FLOPs of a forward pass through all layers, without logits."""
        head = 2 * self._plan.hidden_size * self._plan.vocab_size
        return tokens / self._window * (costs.prefill_flops(self._plan, self._window) - head)

    def _head(self, tokens: int) -> float:
        """FLOPs of the logits of all tokens."""
        return 2 * tokens * self._plan.hidden_size * self._plan.vocab_size

    def _sums(self, tokens: int) -> float:
        """FLOPs of the sums over tokens of what the consuming projections' inputs have in common."""
        return sum(
            2 * tokens * size * (size / 2 + self._plan.hidden_size)
            for layer in self._plan.layers
            for size in _inputs(layer)
        )

    def memory_bytes(self) -> int:
        """The most bytes of tensors at once: hidden states, what a batch computes in a layer, sums, and logits."""
        plan, itemsize = self._plan, self._dtype.itemsize
        widest = plan.widest
        states = 2 * min(self.tokens * plan.hidden_size * itemsize, 1 << 30)
        activations = BATCH_TOKENS * (6 * widest.intermediate_size + 8 * plan.hidden_size) * itemsize
        layer = 2 * costs.mlp_parameters(plan, widest) * itemsize
        matrices = 8 if self._wants_losses else 4 if self._options.compensate else 0
        sums = 4 * matrices * widest.intermediate_size**2
        # The embedding as it is stored and as it is computed with, and logits, most of them in the dtype of products.
        head = 2 * plan.vocab_size * plan.hidden_size * itemsize + 2 * LOGITS_TOKENS * plan.vocab_size * itemsize
        return states + layer + max(activations + sums, head)


def _inputs(layer: LayerWidths) -> tuple[int, int]:
    """The inputs of `o_proj` and of `down_proj`."""
    return layer.attention_size, layer.intermediate_size
