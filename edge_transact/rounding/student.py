"""A rounded model as a function of its scales, and the gradient of its divergence from its teachers.

Besides scales and the embedding, one layer is in memory at a time: it is computed again on the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD
from edge_transact.layerwise.model import LOGITS_TOKENS, LOGITS_VOCABULARY, LayerwiseModel
from edge_transact.quantization import Quantization
from edge_transact.rounding.search import stored
from edge_transact.rounding.store import CODES, SCALES, dequantized, group_of, groups_of, levels
from edge_transact.weights import w4


class Student:
    """The rounded model; its target is the mean of the predictions of its teachers, which have the same vocabulary.

    Attributes:
        scales: Each matrix's scales by its name with `SCALES`, in the quantization's model dtype.
        changes: By which share each matrix's scales grow, by its name, fp32. Writing to them changes the model.
    """

    def __init__(
        self, model: LayerwiseModel, teachers: Sequence[LayerwiseModel], quantization: Quantization, journal: Journal
    ) -> None:
        self._model, self._teachers, self._quantization, self._journal = model, teachers, quantization, journal
        plan = model.checkpoint.plan
        self._layers = [_without_weights(model.layer(index), quantization) for index in range(len(plan.layers))]
        self._head = EMBEDDING if plan.tie_word_embeddings else LM_HEAD
        self._codes = {name: journal[group_of(name)][name + CODES] for name in {EMBEDDING, self._head}}
        groups = (journal[group] for group in groups_of(model.checkpoint))
        self.scales = {name: tensor for group in groups for name, tensor in group.items() if name.endswith(SCALES)}
        self.changes = {name.removesuffix(SCALES): torch.zeros(s.shape) for name, s in self.scales.items()}

    def store(self) -> None:
        """Makes the changes part of the scales, in the dtype in which these are stored."""
        for name, change in self.changes.items():
            self.scales[name + SCALES] = stored(self._changed(name), self._quantization)
            change.zero_()

    def scale_changes(self, factor: float) -> None:
        for change in self.changes.values():
            change.mul_(factor)

    def divergence(self, ids: torch.Tensor, targets: Sequence[torch.Tensor]) -> float:
        """The mean KL divergence from the target, in nats.

        Args:
            ids: A window of token ids, int64 ``[window]``.
            targets: The output of each teacher's last layer, ``[window, hidden_size]``.
        """
        return self._compare(self._forward(ids)[-1], targets).divergence

    def gradients(self, ids: torch.Tensor, targets: Sequence[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """The gradient of `divergence` with respect to each matrix's `changes`, by name, fp32.

        A matrix's changes may be written to as soon as its gradient is known.
        """
        states = self._forward(ids)
        compared = self._compare(states.pop(), targets)
        by_embedding = torch.zeros_like(self.changes[EMBEDDING])
        if self._head == EMBEDDING:
            by_embedding += compared.by_scales
        else:
            yield self._head, compared.by_scales * self._scales(self._head)
        by_output = compared.by_hidden
        for index in reversed(range(len(self._layers))):
            layer, projections = self._layer(index)
            leaves = [states.pop().requires_grad_(), *(each.scales.requires_grad_() for each in projections.values())]
            with torch.enable_grad():
                output = self._model.run(layer, leaves[0])
            by_output, *by_scales = torch.autograd.grad(output, leaves, by_output)
            _detach(projections)
            for name, gradient in zip(projections, by_scales, strict=True):
                yield name, gradient.cpu() * self._scales(name)
        by_rows = _by_scales(self._model.scaled(by_output[0].cpu()), self._codes[EMBEDDING][ids], self._quantization)
        by_embedding.index_add_(0, ids, by_rows)
        yield EMBEDDING, by_embedding * self._scales(EMBEDDING)

    def _forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """The input of every layer and the output of the last one, each ``[1, window, hidden_size]``."""
        model = self._model
        codes, scales = self._codes[EMBEDDING][ids], self._changed(EMBEDDING, ids)
        rows = dequantized(codes, scales, model.checkpoint.plan.hidden_size, self._quantization)
        states = [model.scaled(rows)[None].to(model.device, model.dtype)]
        for index in range(len(self._layers)):
            layer, projections = self._layer(index)
            states.append(model.run(layer, states[-1]))
            _detach(projections)
        return states

    def _layer(self, index: int) -> tuple[DecoderLayer, dict[str, _Projection]]:
        """A layer, and its matrices by their names in the checkpoint, with codes and scales."""
        layer, tensors = self._layers[index], self._journal[group_of(f"model.layers.{index}.")]
        modules = {f"model.layers.{index}.{name}.weight": module for name, module in layer.named_modules()}
        projections = {name: module for name, module in modules.items() if isinstance(module, _Projection)}
        for name, projection in projections.items():
            projection.codes = tensors[name + CODES].to(self._model.device)
            projection.scales = self._changed(name).to(self._model.device)
        return layer, projections

    def _scales(self, name: str, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        return self.scales[name + SCALES][rows].float()

    def _changed(self, name: str, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        return self._scales(name, rows) * (1 + self.changes[name][rows])

    def _compare(self, hidden: torch.Tensor, targets: Sequence[torch.Tensor]) -> _Comparison:
        """The divergence for the last layer's output ``[1, window, hidden_size]`` and the teachers'."""
        by_scales, total = torch.zeros_like(self.changes[self._head]), 0.0
        by_hidden: list[torch.Tensor] = []
        pieces = zip(*(states.split(LOGITS_TOKENS) for states in (hidden[0], *targets)), strict=True)
        for piece, *wanted in pieces:
            leaf = piece.requires_grad_()
            with torch.enable_grad():
                normed = self._model.final_normed(leaf)
            exact = [
                _log_probabilities(teacher.logit_blocks(of_teacher))
                for teacher, of_teacher in zip(self._teachers, wanted, strict=True)
            ]
            ours = _log_probabilities(
                functional.linear(normed.detach(), weight).float() for _, weight in self._head_blocks()
            )
            by_normed = torch.zeros_like(normed)
            for (rows, weight), of_ours, *of_exact in zip(self._head_blocks(), ours, *exact, strict=True):
                probability = torch.stack([block.exp_() for block in of_exact]).mean(dim=0)
                total += functional.kl_div(of_ours, probability, reduction="sum").item()
                error = (of_ours.exp_() - probability).div_(hidden.shape[1]).to(normed.dtype)
                by_normed += error @ weight
                by_weight = (error.T @ normed.detach()).cpu()
                by_scales[rows] += _by_scales(by_weight, self._codes[self._head][rows], self._quantization)
            by_hidden.append(*torch.autograd.grad(normed, leaf, by_normed))
        return _Comparison(total / hidden.shape[1], torch.cat(by_hidden)[None], by_scales)

    def _head_blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """`lm_head` in the blocks of `LayerwiseModel.logit_blocks`: which rows, and their weights."""
        codes = self._codes[self._head]
        for start in range(0, len(codes), LOGITS_VOCABULARY):
            rows = slice(start, start + LOGITS_VOCABULARY)
            scales, hidden_size = self._changed(self._head, rows), self._model.checkpoint.plan.hidden_size
            weight = dequantized(codes[rows], scales, hidden_size, self._quantization)
            yield rows, weight.to(self._model.device, self._model.dtype)


class _Comparison(NamedTuple):
    """The mean divergence of a window's predictions, in nats, and its gradients by the last layer's output and the
    scales."""

    divergence: float
    by_hidden: torch.Tensor
    by_scales: torch.Tensor


class _Projection(torch.nn.Module):
    """A linear layer whose weight is `codes` times `scales`, both given for one use."""

    codes: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, quantization: Quantization) -> None:
        super().__init__()
        self.bias, self._quantization = linear.bias, quantization

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = _Product.apply(x, self.codes, self.scales, self._quantization)
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    """``x @ dequantized(codes, scales).T``, differentiable by x and by the scales."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, quantization: Quantization
    ) -> torch.Tensor:
        weight = dequantized(codes, scales, x.shape[-1], quantization).to(x.dtype)
        ctx.quantization = quantization
        ctx.save_for_backward(x, codes, weight)
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, by_output: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor, None]:
        x, codes, weight = ctx.saved_tensors
        by_weight = by_output.flatten(end_dim=-2).T @ x.flatten(end_dim=-2)
        return by_output @ weight, None, _by_scales(by_weight, codes, ctx.quantization), None


def _log_probabilities(logits: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Log-probabilities from blocks of the vocabulary ``[tokens, block]``, in place."""
    blocks = list(logits)
    sums = torch.stack([block.logsumexp(dim=-1) for block in blocks]).logsumexp(dim=0)
    return [block.sub_(sums[:, None]) for block in blocks]


def _by_scales(by_weight: torch.Tensor, codes: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The gradient with respect to scales ``[rows, groups]``, from that with respect to the weight ``[rows, in]``."""
    return (w4.grouped(by_weight.float(), quantization) * levels(codes, quantization)).sum(dim=-1)


def _without_weights(layer: DecoderLayer, quantization: Quantization) -> DecoderLayer:
    for name, module in list(layer.named_modules()):
        if isinstance(module, torch.nn.Linear):
            layer.set_submodule(name, _Projection(module, quantization))
    return layer


def _detach(projections: dict[str, _Projection]) -> None:
    for projection in projections.values():
        del projection.codes, projection.scales
