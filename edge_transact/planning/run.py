"""From models and a budget to candidates, those that nothing beats, and the one to make."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.errors import UsageError
from edge_transact.formatting import duration, megabytes, milliseconds
from edge_transact.inspection import plotted
from edge_transact.options import tokens_and_seconds
from edge_transact.planning.candidates import Candidate, Source, Times
from edge_transact.planning.options import PlanOptions
from edge_transact.planning.quality import RECORD, Figure
from edge_transact.quantization import Quantization

CUTS = [percent / 100 for percent in range(1, 91)]
"""Are tried until one is within the limits."""


@dataclass(frozen=True)
class Bound:
    """A limit: what was asked for, the most that is allowed, what is measured, and how that is written."""

    asked: str
    allowed: float
    measure: Callable[[Candidate], float | None]
    written: Callable[[float], str]

    def excess(self, candidate: Candidate) -> float:
        """What the candidate has, as a share of what is allowed; infinite if it is unknown."""
        value = self.measure(candidate)
        return math.inf if value is None else value / self.allowed


def bounds_of(options: PlanOptions) -> list[Bound]:
    """The limits that options set."""
    tokens, seconds = tokens_and_seconds(options.max_prefill) if options.max_prefill else (0, 0.0)
    bounds = [
        Bound("--memory", options.memory or 0, lambda each: each.memory_bytes, megabytes),
        Bound("--max-weight-bytes", options.max_weight_bytes or 0, lambda each: each.weight_bytes, megabytes),
        Bound("--max-decode", options.max_decode or 0, lambda each: each.decode_s.value, milliseconds),
        Bound("--max-prefill", seconds, lambda each: each.prefill_s[tokens].value, milliseconds),
    ]
    return [bound for bound in bounds if bound.allowed]


def frontier(objectives: Sequence[Sequence[float | None]]) -> list[int]:
    """The places of those that no other is at most equal to in everything and less in something.

    What nobody knows counts for nobody; who lacks what another knows isn't among them.
    """
    used = [any(value is not None for value in column) for column in zip(*objectives, strict=True)]
    rows = [[value for value, is_used in zip(row, used, strict=True) if is_used] for row in objectives]
    known = {place: [float(value) for value in row if value is not None] for place, row in enumerate(rows)}
    known = {place: row for place, row in known.items() if len(row) == sum(used)}
    return [
        place
        for place, row in known.items()
        if not any(other != row and all(map(float.__le__, other, row)) for other in known.values())
    ]


@dataclass(frozen=True, repr=False)
class Planned(Summarized):
    """What could be made of the models, and what is best.

    Attributes:
        candidates: All of them, model by model.
        frontier: Those of each model that none of its others beats in bytes, memory, times and quality together.
        best: Of each model that has one within the limits, the candidate with the least loss.
    """

    options: PlanOptions
    candidates: Sequence[Candidate]
    frontier: Sequence[Candidate]
    best: Sequence[Candidate]

    @property
    def recommended(self) -> Candidate | None:
        """The one to make; `None` if several models have one, whose qualities can't be compared."""
        return self.best[0] if len(self.best) == 1 else None

    def summary(self) -> Summary:
        """A row for each candidate of the frontier, the best ones with an asterisk."""
        shown = [each for each in self.candidates if each in self.frontier or each in self.best]
        models = list(dict.fromkeys(each.model for each in self.candidates))
        prompts = sorted({tokens for each in self.candidates for tokens in each.prefill_s})
        contexts = " or ".join(f"{context:,}" for context in sorted({each.context for each in self.candidates}))
        first = [f"first token after {tokens:,}" for tokens in prompts]
        header = ["candidate", "weights", f"memory, {contexts} tokens", *first]
        header += ["tokens/s", "perplexity", "how known", "training"]
        rows = [
            [
                "* " * (each in self.best) + f"{each.model}: " * (len(models) > 1) + each.name,
                megabytes(each.weight_bytes),
                megabytes(each.memory_bytes),
                *(_written(each.prefill_s.get(tokens), milliseconds) for tokens in prompts),
                _written(each.decode_s, lambda seconds: f"{1 / seconds:.3g}"),
                _written(each.rise, lambda nats: f"{math.expm1(nats):+.0%}"),
                each.rise.how,
                duration(each.cpu_s) if each.cpu_s else "",
            ]
            for each in sorted(shown, key=lambda each: (models.index(each.model), -each.weight_bytes))
        ]
        title = f"{', '.join(models)}: {len(rows)} of {len(self.candidates)} candidates"
        return Summary(title, header=header, rows=rows)

    def notes(self) -> list[str]:
        """How figures are known, in a sentence each."""
        first = self.best[0]
        times = {"Tokens a second": first.decode_s, "Time to the first token": next(iter(first.prefill_s.values()))}
        notes = [f"{what}: {figure.how}, {figure.note}." for what, figure in times.items()]
        notes.append(
            f"Perplexity: over the dense model in 16 bits, on {RECORD['text']}; {RECORD['model']}'s figures "
            f"({RECORD['source']}), from which another model may differ."
        )
        for best in self.best:
            if best.rise.value is None:
                notes.append(f"How well {best.model} ({best.name}) predicts is unknown: {best.rise.note}.")
        if len(self.best) > 1:
            notes.append("Rises of perplexity don't compare models: each has its own best candidate.")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints; `frontier` and `best` are places in `candidates`."""
        chosen = self.recommended
        return {
            "candidates": [each.to_dict() for each in self.candidates],
            "frontier": [self.candidates.index(each) for each in self.frontier],
            "best": [self.candidates.index(each) for each in self.best],
            "recommended": chosen and chosen.to_dict() | {"commands": chosen.commands(self.options)},
            "notes": self.notes(),
        }


def plot_frontier(planned: Planned, path: Path, *, force: bool = False) -> None:
    """Draws quality and speed over the size of all candidates, with the frontier and the best. Raises as `plotted`."""
    panels: dict[str, Callable[[Candidate], float | None]] = {
        "rise of log-perplexity, nats a token": lambda each: each.rise.value,
        "decode, tokens a second": lambda each: each.decode_s.value and 1 / each.decode_s.value,
    }
    panels = {title: value for title, value in panels.items() if any(map(value, planned.candidates))}
    with plotted(path, (4.5 * max(1, len(panels)), 3.6), force=force) as figure:
        for place, (title, value) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(1, len(panels), place, xlabel="weights, MB", ylabel=title)
            for colour, model in enumerate(dict.fromkeys(each.model for each in planned.candidates)):
                for among, mark, label in (
                    (planned.candidates, f".C{colour}", f"{model}: all"),
                    (planned.frontier, f"oC{colour}", "frontier"),
                    (planned.best, "*k", "recommended"),
                ):
                    own = [(each.weight_bytes / 1e6, value(each)) for each in among if each.model == model]
                    known = [point for point in own if point[1] is not None]
                    axes.plot(*zip(*known, strict=True), mark, label=label)
            axes.legend()


def _written(figure: Figure | None, write: Callable[[float], str]) -> str:
    if figure is None:
        return ""
    return " to ".join(write(end) for end in (figure.value, figure.other) if end is not None) or "?"


def plan_models(models: Sequence[str], options: PlanOptions) -> Planned:
    """The candidates of models, their frontier, and the best within the limits.

    Raises:
        UsageError: Nothing is within the limits; the message names the nearest and what it lacks. Or a profile is of
            another model, quantization or device.
        EdgeTransactError: There is no such model.
    """
    bounds, times = bounds_of(options), Times(options)
    everything: list[Candidate] = []
    front: list[Candidate] = []
    best: list[Candidate] = []
    for model in dict.fromkeys(models):
        source = Source.of(model, options)
        times.check(source)
        found: list[Candidate] = []
        for quantization in times.quantizations():

            def meets(ratio: float, quantization: Quantization = quantization, source: Source = source) -> bool:
                return any(_is_within(each, bounds) for each in source.candidates([ratio], quantization, times))

            ratios = {0.0, *options.ratios}
            if not meets(0.0):
                ratios |= set(islice(filter(meets, CUTS), 1))
            found += source.candidates(sorted(ratios), quantization, times)
        everything += found
        front += [found[place] for place in frontier([each.objectives() for each in found])]
        best += filter(None, [best_of(each for each in found if _is_within(each, bounds))])
    if not best:
        nearest = min(everything, key=lambda each: (max(bound.excess(each) for bound in bounds), each.cpu_s))
        lacks = []
        for bound in (bound for bound in bounds if bound.excess(nearest) > 1):
            takes = "an unknown time" if (value := bound.measure(nearest)) is None else bound.written(value)
            lacks.append(f"{bound.asked} allows {bound.written(bound.allowed)}, and it takes {takes}")
        raise UsageError(
            f"nothing is within the limits: the nearest is {nearest.model}, {nearest.name}: {'; '.join(lacks)}",
            fix="Allow more, give a shorter --context, or try a smaller model.",
        )
    return Planned(options, everything, front, best)


def _is_within(candidate: Candidate, bounds: Iterable[Bound]) -> bool:
    return all(bound.excess(candidate) <= 1 for bound in bounds)


def best_of(candidates: Iterable[Candidate]) -> Candidate | None:
    """The candidate with the least rise, and among equals with the smallest other figures.

    One whose rise is unknown only where none is known: the one that is trained and cut least.
    """

    def order(each: Candidate) -> tuple[float, ...]:
        if each.rise.value is None:
            return (math.inf, each.cpu_s, each.ratio, -each.weight_bytes)
        return tuple(math.inf if value is None else value for value in (*each.objectives(), each.cpu_s))

    return min(candidates, key=order, default=None)
