"""Measures what rounding costs: the model as a whole, and each of its parts alone, for several roundings at once.

The windows go through the layers once: as hidden states of the unrounded model, of the rounded models, and of variants
in which one part is rounded and all others aren't. As in `pruning.score.sensitivity`, a variant joins at its layer and
goes through the unrounded layers after it, so each layer is read once, and one layer at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from edge_transact.cache.journal import Journal, release
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD, tensor_shapes
from edge_transact.evaluation.perplexity import LogitsFunction, Perplexity, perplexity, windows_of
from edge_transact.layerwise.model import LOGITS_TOKENS, LayerwiseModel, divergences, pieces, through
from edge_transact.progress import bar
from edge_transact.quantization import Quantization
from edge_transact.weights.convert import ParameterSources, restore
from edge_transact.weights.shards import ShardReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOWS, WINDOW = 8, 512
"""Perplexity, and the divergence of a rounded model, are measured on this many windows of this many tokens."""

PARTS_STEP, PREDICTIONS_STEP = "one part rounded", "divergence"

PART_WINDOWS, PART_WINDOW = 4, 128
"""A part is measured on the start of the first windows, because these tokens go through every variant of the model."""

ROWS = 4096


@dataclass(frozen=True)
class Dequantized(Checkpoint):
    """A checkpoint whose tensors are what shards hold of them, in fp32."""

    reader: ShardReader
    sources: ParameterSources
    quantization: Quantization

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in fp32, or a table of RoPE pairs in int32; `KeyError` if there is none of that name."""
        sources = {parameter: source for parameter, source in self.sources.items() if name in source[0]}
        return dict(restore(self.reader, sources, tensor_shapes(self.plan), self.quantization))[name]


@dataclass(frozen=True)
class MatrixError:
    """How far a rounded matrix W' is from W: ``|W - W'|^2 / |W|^2``, and ``|Wx - W'x|^2 / |Wx|^2`` over the inputs x.

    Inputs are those that the unrounded model has on the text; for an embedding, the rows that the text looks up.
    """

    weight_error: float
    output_error: float


@dataclass(frozen=True)
class Part:
    """A layer, embedding or `lm_head` rounded alone, and by rounding its errors and its divergence, nats a token."""

    name: str
    matrices: dict[str, dict[str, MatrixError]]
    kl: dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """Parts in the order of the forward pass, the model before rounding, and by rounding the whole rounded model."""

    parts: list[Part]
    unrounded: Perplexity
    rounded: dict[str, Perplexity]


@torch.no_grad()
def measure(
    checkpoint: Checkpoint,
    rounded: Mapping[str, Checkpoint],
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    journal: Journal,
) -> Measurement:
    """Measures roundings of a model on a text, in fp32; an `EdgeTransactError` for short texts, and for NaN."""
    window = min(WINDOW, checkpoint.config.get("max_position_embeddings") or WINDOW)
    ids = tokenizer(text, verbose=False)["input_ids"]
    windows = torch.tensor(windows_of(ids, window, WINDOWS))
    sweep = _Sweep(checkpoint, rounded, windows, journal)
    sweep.run()

    def evaluated(logits: LogitsFunction, reference: LogitsFunction | None = None) -> Perplexity:
        return perplexity(logits, tokenizer, text, window=window, max_windows=WINDOWS, reference=reference)

    unrounded = evaluated(sweep.logits(None))
    return Measurement(
        sweep.parts, unrounded, {name: evaluated(sweep.logits(name), sweep.logits(None)) for name in rounded}
    )


class _Sweep:
    """The hidden states of the model, of its roundings and of all variants, on their way through the layers."""

    def __init__(
        self, checkpoint: Checkpoint, rounded: Mapping[str, Checkpoint], windows: torch.Tensor, journal: Journal
    ) -> None:
        self._layers, self._tied = len(checkpoint.plan.layers), checkpoint.plan.tie_word_embeddings
        self._exact = LayerwiseModel(checkpoint, windows, torch.float32)
        self._short = LayerwiseModel(checkpoint, _start(windows), torch.float32)
        self._rounded = rounded
        # [windows, window, hidden_size]
        self._whole = self._exact.embeddings(journal)
        self._together = {name: self._model(name).embeddings(journal) for name in rounded}
        # [layers + 1, roundings, windows, window, hidden_size]: the embedding, then the layers
        shape = (self._layers + 1, len(rounded), *self._short.windows.shape, self._whole.shape[-1])
        self._variants = journal.room(shape, torch.float32)
        self.parts = [Part("embedding, lm_head" if self._tied else "embedding", {}, {})]
        self.parts += [Part(f"layer {index}", {}, {}) for index in range(self._layers)]
        if not self._tied:
            self.parts.append(Part("lm_head", {}, {}))

    def run(self) -> None:
        for name, variant in zip(self._rounded, self._variants[0], strict=True):
            self._embed(name, variant)
        # A layer is run on the variants of the embedding and of the layers before it.
        with bar(PARTS_STEP, self._layers * (self._layers + 1) // 2) as advance:
            for index in range(self._layers):
                self._layer(index)
                advance(index + 1)
        tokens = _start(self._exact.windows)[:, 1:].numel()
        variants = self._layers + (1 if self._tied else 2)
        with bar(PREDICTIONS_STEP, len(self._rounded) * variants * tokens) as advance:
            for number, name in enumerate(self._rounded):
                self._predict(name, self._variants[:, number], advance)

    def logits(self, name: str | None) -> LogitsFunction:
        """The logits of a rounded model, or of the unrounded one, for the windows in their order."""
        model, hidden = (self._model(name), self._together[name]) if name else (self._exact, self._whole)
        windows = iter(hidden)
        return lambda _ids: model.logits(next(windows))

    def _model(self, name: str) -> LayerwiseModel:
        """A rounded model. A new one each time, because it would keep its `lm_head`."""
        return LayerwiseModel(self._rounded[name], self._exact.windows, torch.float32)

    def _embed(self, name: str, variant: torch.Tensor) -> None:
        embedding, rounded = (of.tensor(EMBEDDING) for of in (self._exact.checkpoint, self._rounded[name]))
        looked_up = _distance(_start(self._whole), _start(self._together[name]))
        errors = MatrixError(_distance(embedding, rounded), looked_up)
        self.parts[0].matrices.setdefault("model.embed_tokens", {})[name] = errors
        variant.copy_(_start(self._together[name]))

    def _layer(self, index: int) -> None:
        layer = self._exact.layer(index)
        through(self._short, layer, self._variants[: index + 1].flatten(end_dim=2))
        for name, variant in zip(self._rounded, self._variants[index + 1], strict=True):
            model = self._model(name)
            rounded = model.layer(index)
            variant.copy_(_start(self._whole))
            for matrix, errors in _errors(self._short, layer, rounded, variant).items():
                self.parts[index + 1].matrices.setdefault(matrix, {})[name] = errors
            through(self._short, rounded, variant)
            through(model, rounded, self._together[name])
        through(self._exact, layer, self._whole)
        release(self._variants)

    def _predict(self, name: str, alone: torch.Tensor, advance: Callable[[int], None]) -> None:
        """Compares predictions behind the last layer; `alone` is ``[layers + 1, windows, window, hidden_size]``."""
        model, start = self._model(name), _start(self._whole)
        head = self.parts[0 if self._tied else -1]
        weights = (of.checkpoint.tensor(EMBEDDING if self._tied else LM_HEAD) for of in (self._exact, model))
        errors = MatrixError(_distance(*weights), self._logits_distance(model, start))
        head.matrices.setdefault("lm_head", {})[name] = errors
        # The last token of a window predicts nothing that is in it.
        variants = [(self._exact, hidden[:, :-1]) for hidden in alone]
        if self._tied:
            variants[0] = (model, variants[0][1])
        else:
            variants.append((model, start[:, :-1]))
        # The sum can be a rounding below 0.
        kl = divergences(self._exact, start[:, :-1], variants, advance).clamp_min(0)
        for part, divergence in zip(self.parts, kl.tolist(), strict=True):
            part.kl[name] = divergence

    def _logits_distance(self, model: LayerwiseModel, hidden: torch.Tensor) -> float:
        def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for rows in hidden.flatten(end_dim=1).split(LOGITS_TOKENS):
                yield from zip(self._exact.logit_blocks(rows), model.logit_blocks(rows), strict=True)

        return _relative((_squares(exact, rounded) for exact, rounded in blocks()))


def _start(windows: torch.Tensor) -> torch.Tensor:
    """What parts are measured on, of token ids or hidden states ``[windows, window, ...]``; a view."""
    return windows[:PART_WINDOWS, :PART_WINDOW]


def _errors(
    model: LayerwiseModel, layer: DecoderLayer, rounded: DecoderLayer, hidden: torch.Tensor
) -> dict[str, MatrixError]:
    """The errors of a rounded layer's projections, each on the input that the unrounded layer has."""
    projections = {name: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
    replacements = {name: rounded.get_parameter(f"{name}.weight") for name in projections}
    outputs: dict[str, list[tuple[float, float]]] = {name: [] for name in projections}

    def compare(name: str) -> Callable[[torch.nn.Linear, tuple[torch.Tensor], torch.Tensor], None]:
        def hook(module: torch.nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            exact = output if module.bias is None else output - module.bias
            outputs[name].append(_squares(exact, functional.linear(inputs[0], replacements[name])))

        return hook

    handles = [module.register_forward_hook(compare(name)) for name, module in projections.items()]
    for batch in pieces(hidden, model):
        model.run(layer, batch)
    for handle in handles:
        handle.remove()
    return {
        name: MatrixError(_distance(module.weight, replacements[name]), _relative(outputs[name]))
        for name, module in projections.items()
    }


def _distance(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    """``|exact - rounded|^2 / |exact|^2``, in blocks of rows."""
    return _relative(map(_squares, exact.split(ROWS), rounded.split(ROWS)))


def _squares(exact: torch.Tensor, rounded: torch.Tensor) -> tuple[float, float]:
    """The square of the difference, and that of `exact`."""
    exact = exact.float()
    return (rounded - exact).square().sum().item(), exact.square().sum().item()


def _relative(squares: Iterator[tuple[float, float]] | list[tuple[float, float]]) -> float:
    error, size = (sum(column) for column in zip(*squares, strict=True))
    return error / size if size else 0.0
