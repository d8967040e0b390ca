"""Rounds a model layer by layer on calibration text: each layer sees the outputs of the rounded layers before it.

In a layer, matrices are rounded in the order of computation. `GPTQ` rounds each with the Gram matrix of its inputs, or
`search` if that comes from too few tokens. The embedding is rounded first, without text, and once more at the end if it
is `lm_head`, too. Where a projection adds to the hidden state, a token counts by the inverse square of that state's
size, because the next norm divides by that size; and where a norm follows the projection, by that of its output's.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import torch

from edge_transact.architecture.matrices import (
    ATTENTION_INPUTS,
    ATTENTION_NORM,
    DOWN,
    MATRICES,
    MLP_INPUTS,
    MLP_NORM,
    OUTPUT,
    Matrix,
)
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer, is_finite, linear
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD, tensor_shapes
from edge_transact.errors import EdgeTransactError
from edge_transact.layerwise.gram import Gram, sums_of
from edge_transact.layerwise.model import LayerwiseModel, added, check_finite, output_size, pieces
from edge_transact.progress import bar
from edge_transact.quantization import Quantization
from edge_transact.rounding.distillation import distill
from edge_transact.rounding.gptq import CHUNK_ROWS, GPTQ
from edge_transact.rounding.importance import InputImportance, relative
from edge_transact.rounding.search import search
from edge_transact.rounding.store import CODES, SCALES, dequantized, group_of
from edge_transact.weights import w4

logger = logging.getLogger(__name__)

STEP = "round"

CODES_TOKENS, SCALES_TOKENS = 8192, 16384
"""The most tokens that each step of `round_best` reads, so that more text takes no more time."""

_STATE, _DONE = "rounded-state", "rounded"

OTHER_TEXT = 0.25
"""The share of the inputs' energy that comes from random tokens, see `InputImportance`, and not from the text, whose
tokens may be few and alike."""

FEWEST = 1 / 16
"""Tokens per input of a matrix; with fewer, `search` rounds it."""


def round_best(
    checkpoint: Checkpoint,
    teacher: Checkpoint | None,
    windows: torch.Tensor,
    quantization: Quantization,
    journal: Journal,
) -> list[str]:
    """``--rounding best``: `round_model`, which says what is returned, and `distill`, on other text if there is enough.

    `teacher` is the model that it was pruned from, if it was, and `windows` are calibration text, int64 ``[windows,
    window]``. An interrupted run continues with the journal.
    """
    shuffled = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    window = windows.shape[1]
    for_codes = shuffled[: max(1, CODES_TOKENS // window)]
    for_scales = shuffled[-max(1, SCALES_TOKENS // window) :]
    searched = round_model(LayerwiseModel(checkpoint, for_codes), quantization, journal)
    model = LayerwiseModel(checkpoint, for_scales)
    teachers = [model] if teacher is None else [model, LayerwiseModel(teacher, for_scales)]
    distill(model, teachers, quantization, journal)
    return searched


@torch.no_grad()
def round_model(model: LayerwiseModel, quantization: Quantization, journal: Journal) -> list[str]:
    """Rounds all matrices of a model, and returns the names of those that the windows have too few tokens for.

    Codes and scales go to the journal as soon as they are chosen, for `Rounded`.

    Raises:
        EdgeTransactError: A layer computes NaN or infinity, or a weight isn't finite in the quantization's dtype.
    """
    checkpoint = model.checkpoint
    head = EMBEDDING if checkpoint.plan.tie_word_embeddings else LM_HEAD
    if _DONE not in journal:
        _round_in_order(model, head, quantization, journal)
        journal[_DONE] = {}
        journal.discard(_STATE)
    multiplied = {
        part: shape
        for part, shape in tensor_shapes(checkpoint.plan).items()
        if part == head or part.removesuffix(".weight").endswith(tuple(MATRICES))
    }
    return [part for part, (_, inputs) in multiplied.items() if model.windows.numel() < FEWEST * inputs]


def _round_in_order(model: LayerwiseModel, head: str, quantization: Quantization, journal: Journal) -> None:
    """Rounds the embedding, the layers, and the matrix that is `lm_head`, or continues with it."""
    checkpoint, tokens = model.checkpoint, model.windows.numel()
    layers = len(checkpoint.plan.layers)
    importance_of = InputImportance(checkpoint)
    if _STATE in journal:
        state = journal[_STATE]
        done, hidden = int(state["done"]), state["hidden"]
    else:
        done, hidden = 0, _embed(model, quantization, journal, importance_of(EMBEDDING))
    batches = len(model.batches)
    with bar(STEP, layers * batches, done * batches) as advance:
        for index in range(done, layers):
            tensors = _Layer(model, index, quantization, journal, importance_of).round(hidden, advance)
            check_finite({"hidden states": hidden}, checkpoint, index)
            journal[f"rounded-{index}"] = tensors
            state = {"hidden": hidden, "done": torch.tensor(index + 1)}
            journal.now_and_then(_STATE, state, last=index + 1 == layers)
    gram = Gram(checkpoint.plan.hidden_size, model.device)
    with sums_of(model.dtype):
        for batch in pieces(hidden, model):
            gram.add(model.final_normed(batch).flatten(end_dim=1).float())
    weight = _checked(head, checkpoint.tensor(head), quantization)
    _keep(journal, head, *_rounding(head, gram.whole().cpu(), tokens, importance_of(head), quantization)(weight))


def _embed(
    model: LayerwiseModel, quantization: Quantization, journal: Journal, importance: torch.Tensor
) -> torch.Tensor:
    """Rounds the embedding without text. Returns the input of layer 0, ``[windows, window, hidden_size]``."""
    weight = _checked(EMBEDDING, model.checkpoint.tensor(EMBEDDING), quantization)
    codes, scales = _search(weight, importance, quantization)
    _keep(journal, EMBEDDING, codes, scales)
    hidden = journal.room((*model.windows.shape, weight.shape[1]), model.dtype)
    for ids, batch in zip(model.batches, pieces(hidden, model), strict=True):
        rows = dequantized(codes[ids.flatten()], scales[ids.flatten()], weight.shape[1], quantization)
        batch.copy_(model.scaled(rows.view(*ids.shape, -1)))
    return hidden


def _search(
    weight: torch.Tensor, importance: torch.Tensor, quantization: Quantization
) -> tuple[torch.Tensor, torch.Tensor]:
    """`search` in blocks, because a vocabulary of 128,000 takes gigabytes in fp32."""
    chosen = [search(rows, importance=importance, quantization=quantization) for rows in weight.split(CHUNK_ROWS)]
    codes, scales = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    return codes, scales


def _rounding(
    what: str, gram: torch.Tensor, tokens: int, importance: torch.Tensor, quantization: Quantization
) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The rounding of matrices that read the inputs of a Gram matrix. Warns if there are few tokens."""
    squares = gram.diagonal()
    of_other_text = OTHER_TEXT * squares.mean() * importance
    gram *= 1 - OTHER_TEXT
    squares += of_other_text
    few = f"{what}: {tokens} calibration tokens are few for {len(gram)} inputs, so "
    fix = " Give more --calibration-tokens."
    if tokens < FEWEST * len(gram):
        logger.warning(f"{few}search rounds it, by the inputs' sizes alone.{fix}")
        return functools.partial(_search, importance=relative(squares), quantization=quantization)
    if tokens < len(gram):
        logger.warning(f"{few}rounding relies less on what inputs have in common.{fix}")
    return GPTQ(gram, tokens, quantization)


def _checked(name: str, weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The weight itself, if it is finite in the quantization's dtype."""
    dtype = getattr(torch, quantization.model_dtype)
    if not all(is_finite(rows.to(dtype)) for rows in weight.split(CHUNK_ROWS)):
        error = w4.not_finite(quantization)
        raise EdgeTransactError(f"{name}: {error.message}", fix=error.fix)
    return weight


def _keep(journal: Journal, name: str, codes: torch.Tensor, scales: torch.Tensor) -> None:
    journal[group_of(name)] = {name + CODES: codes, name + SCALES: scales}


class _Layer:
    """One layer, whose matrices are replaced by rounded ones in the order in which they compute."""

    def __init__(
        self,
        model: LayerwiseModel,
        index: int,
        quantization: Quantization,
        journal: Journal,
        importance_of: InputImportance,
    ) -> None:
        self.model, self.index, self.quantization, self.journal = model, index, quantization, journal
        self.importance_of = importance_of
        self.layer: DecoderLayer = model.layer(index)
        self.tensors: dict[str, torch.Tensor] = {}

    def round(self, hidden: torch.Tensor, advance: Callable[[int], None]) -> dict[str, torch.Tensor]:
        """Rounds all matrices, and runs the hidden states ``[windows, window, hidden_size]`` through the layer, in
        place.

        Returns codes and scales by the checkpoint's names.
        """
        layer, model = self.layer, self.model
        widths = model.checkpoint.plan.layers[self.index]
        if widths.has_attention:
            self._read(ATTENTION_INPUTS, layer.get_submodule(ATTENTION_NORM), hidden)
            self._add(OUTPUT, lambda batch: model.attend(layer, batch), hidden)
        if widths.has_mlp:
            self._read(MLP_INPUTS, layer.get_submodule(MLP_NORM), hidden)
            self._add(DOWN, lambda batch: model.activate(layer, batch), hidden)
        advance(len(model.batches))
        return self.tensors

    def _read(self, matrices: Sequence[Matrix], norm: torch.nn.Module, hidden: torch.Tensor) -> None:
        gram = Gram(hidden.shape[-1], self.model.device)
        with sums_of(self.model.dtype):
            for batch in pieces(hidden, self.model):
                gram.add(norm(batch.to(self.model.device)).flatten(end_dim=1).float())
        self._replace(matrices, gram)

    def _add(
        self,
        matrix: Matrix,
        inputs_of: Callable[[torch.Tensor], torch.Tensor],
        hidden: torch.Tensor,
    ) -> None:
        """Rounds a projection that adds to the hidden states, and adds its output."""
        projection = linear(self.layer, matrix)
        inputs = self.journal.room((*self.model.windows.shape, projection.in_features), self.model.dtype)
        gram = Gram(projection.in_features, self.model.device)
        with sums_of(self.model.dtype):
            for batch, kept in zip(pieces(hidden, self.model), pieces(inputs, self.model), strict=True):
                computed = inputs_of(batch)
                kept.copy_(computed)
                size = batch.to(self.model.device).float().square().mean(dim=-1, keepdim=True).clamp_min(1e-12)
                weights = size.rsqrt() / output_size(self.layer, matrix, projection(computed))
                gram.add((computed.float() * weights).flatten(end_dim=1))
        self._replace([matrix], gram)
        for batch, kept in zip(pieces(hidden, self.model), pieces(inputs, self.model), strict=True):
            batch += added(self.layer, matrix, projection(kept.to(self.model.device))).to(batch.device)

    def _replace(self, matrices: Sequence[Matrix], gram: Gram) -> None:
        inputs, names = gram.whole().cpu(), [matrix.name for matrix in matrices]
        check_finite({f"the inputs of {names[0]}": inputs}, self.model.checkpoint, self.index)
        what = f"layer {self.index}, {', '.join(names)}"
        importance = self.importance_of(f"model.layers.{self.index}.{names[0]}.weight")
        rounding = _rounding(what, inputs, self.model.windows.numel(), importance, self.quantization)
        for matrix in matrices:
            projection = linear(self.layer, matrix)
            stored = f"model.layers.{self.index}.{matrix.name}.weight"
            codes, scales = rounding(_checked(stored, projection.weight.cpu(), self.quantization))
            self.tensors |= {stored + CODES: codes, stored + SCALES: scales}
            weight = dequantized(codes, scales, projection.in_features, self.quantization)
            projection.weight = torch.nn.Parameter(weight.to(self.model.device, self.model.dtype), requires_grad=False)
