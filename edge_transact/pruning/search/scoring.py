"""Scores plans: how far the predictions of the supernet's model of a plan are from the source's.

Plans go through the layers together. Where they begin with the same levels, these are computed once. Every product has
the shape that it has for a plan alone, so that a plan's score doesn't depend on the others, nor on the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.layerwise.model import LayerwiseModel, divergences, through
from edge_transact.layerwise.windows import split
from edge_transact.pruning.cut import LAYERS_PREFIX, pruned_layer, select
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search.supernet import alone, lacks, level
from edge_transact.pruning.units import CONSUMERS, MODULES, Module
from edge_transact.widths import LayerWidths, WidthPlan

SEARCHED, UNSEEN = "searched", "unseen"
"""The names of the text on which generations are compared, and of the text that only the last one is compared on."""

UNSEEN_SHARE = 1 / 4
"""The share of the held-out text that no generation sees."""

SHORT_WINDOW = 128
"""Tokens of a window where few are used: many short windows cover more of a text than a few long ones."""

PIECES = 8
"""Texts ``piece-0`` and so on: all plans of a generation are scored on one of them, those of the next on another."""


def compared_texts(held_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """The texts on which plans are compared, by name, from windows that nothing is solved on.

    All are int64 ``[windows, window]``; a piece is spread evenly over the searched text.

    Raises:
        UsageError: There is only one window.
    """
    searched, unseen = split(held_out, round(held_out.numel() * UNSEEN_SHARE))
    length = min(SHORT_WINDOW, searched.shape[1])
    short = searched[:, : searched.shape[1] // length * length].reshape(-1, length)
    pieces = {f"piece-{number}": short[number % len(short) :: PIECES] for number in range(PIECES)}
    return {SEARCHED: searched, UNSEEN: unseen, **pieces}


@dataclass
class Scoring:
    """What a process needs to score plans: it is sent to each.

    Attributes:
        source: The checkpoint's directory.
        supernet: The files of the layers of the supernet.
        texts: The windows of each text by name, int64 ``[windows, window]``.
    """

    source: Path
    supernet: Sequence[Path]
    scores: Sequence[LayerScores]
    texts: Mapping[str, torch.Tensor]

    @torch.no_grad()
    def divergences(self, plans: Sequence[WidthPlan], text: str) -> list[float]:
        """The mean divergence of each plan's predictions on a text, nats a token."""
        with one_thread():
            if text not in self._known:
                model = LayerwiseModel(Checkpoint.open(self.source), self.texts[text])
                self._known[text] = model, self._run(model, [model.checkpoint.plan])[0]
            model, whole = self._known[text]
            head, _ = next(iter(self._known.values()))  # `lm_head` is in memory once for all texts
            return divergences(head, whole, [(head, hidden) for hidden in self._run(model, plans)]).tolist()

    @cached_property
    def _known(self) -> dict[str, tuple[LayerwiseModel, torch.Tensor]]:
        """The source, and its last layer's output, by text."""
        return {}

    def _run(self, model: LayerwiseModel, plans: Sequence[WidthPlan]) -> list[torch.Tensor]:
        """The output of each plan's last layer, ``[windows, window, hidden_size]``; plans share it where they agree."""
        states = [model.scaled(model.checkpoint.tensor(EMBEDDING)[model.windows]).to(model.dtype)]
        at = [0] * len(plans)  # the state of each plan
        for index in range(len(model.checkpoint.plan.layers)):
            for module in MODULES:
                chosen = [level(module, plan.layers[index]) for plan in plans]
                parts = {name: plan.layers[index] for name, plan in zip(chosen, plans, strict=True)}
                following: dict[tuple[str, int], torch.Tensor] = {}
                for name, widths in parts.items():
                    layer = None if lacks(module, widths) else self._layer(model, index, module, widths)
                    for state in sorted({state for state, other in zip(at, chosen, strict=True) if other == name}):
                        following[name, state] = after = states[state] if layer is None else states[state].clone()
                        if layer is not None:
                            through(model, layer, after)
                places = {key: place for place, key in enumerate(following)}
                at = [places[key] for key in zip(chosen, at, strict=True)]
                states = list(following.values())
        return [states[state] for state in at]

    def _layer(self, model: LayerwiseModel, index: int, module: Module, widths: LayerWidths) -> DecoderLayer:
        """A layer that has nothing but one module of these widths."""
        source, scores = model.checkpoint.plan.layers[index], self.scores[index]
        widths = alone(module, widths)
        name, replaced = level(module, widths), {}
        if name != level(module, source):
            with safe_open(self.supernet[index], "pt") as file:
                replaced = {f"{LAYERS_PREFIX}{index}.{CONSUMERS[module].name}.weight": file.get_tensor(name)}
        tensors = pruned_layer(model.checkpoint, index, select(scores, widths), replaced)
        return model.load(index, widths, tensors)


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread inside the context: the others belong to other plans."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
