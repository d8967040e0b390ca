"""The search: generations of plans, of which the ones survive whose predictions are nearest to the source's.

Many are scored on a few tokens, and the best of them on all. Rounds begin on a coarse grid of widths, and go on around
the best plan on finer ones. What a generation found is in the journal, so that an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from random import Random

import torch

from edge_transact.cache.journal import Journal
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.progress import bar
from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search import space, supernet
from edge_transact.pruning.search.executor import Scores, scoring_in
from edge_transact.pruning.search.scoring import Scoring
from edge_transact.pruning.units import DEFAULT_UNITS
from edge_transact.widths import LayerWidths, WidthPlan

STEP = "search"

PARTS = (1, 4)
"""The rounds: the steps of their grids are these parts of the first one's."""

OFFSPRING, SURVIVORS, PARENTS = 32, 8, 6
"""Plans of a generation; those that are scored on all tokens; and those from which the next generation comes."""

FIRST_SHARE = 1 / 8
"""The share of the tokens on which all plans of a generation are scored."""

TOGETHER = 4
"""Plans that are scored together, and share what they have in common."""


@dataclass(frozen=True)
class Generation:
    """The best plans known after a generation, best first, and their divergences on all tokens, nats a token."""

    round: int
    plans: Sequence[WidthPlan]
    divergences: Sequence[float]


def search(
    model: LayerwiseModel,
    scores: Sequence[LayerScores],
    start: WidthPlan,
    limits: Sequence[Limit],
    held_out: torch.Tensor,
    options: PruneOptions,
    journal: Journal,
) -> list[Generation]:
    """Searches from a plan that is within limits; returns every generation, the last with the best plan.

    Args:
        model: The source, and the windows on which the supernet is solved.
        held_out: The windows on which plans are scored.
    """
    generations, found = -(-options.search_generations // len(PARTS)), [Generation(0, [start], [])]
    drops = options.units or DEFAULT_UNITS if options.drop else ()
    first = grid = space.coarse(model.checkpoint.plan, start, options.bucket, drops)
    with bar(STEP, generations * len(PARTS)) as advance:
        for number, part in enumerate(PARTS):
            if number:
                grid = space.fine(model.checkpoint.plan, found[-1].plans[0], options.bucket, first, part)
            name = f"supernet-{number}"
            names = [f"search-{number}-{generation}" for generation in range(generations + 1)]
            if names[-1] not in journal:
                supernet.solve(model, scores, grid, journal, name)
            groups = [supernet.group(name, index) for index in range(len(grid))]
            scoring = Scoring(model.checkpoint.path, [journal.file(each) for each in groups], scores, held_out)
            with scoring_in(options.search_on, scoring) as scored:
                evolution = _Evolution(space.Space(model.checkpoint.plan, grid, limits), scored, held_out.numel())
                for generation, step in enumerate(names):
                    if step not in journal:
                        random, known = Random(f"{options.seed}, {step}"), found[-1]
                        after = evolution.after(known, random) if generation else evolution.begun(known, random)
                        journal.note(step, [(list(map(astuple, plan.layers)), loss) for plan, loss in after])
                    layers, divergences = zip(*journal.noted(step), strict=True)
                    plans = [start.with_layers(LayerWidths(*widths) for widths in each) for each in layers]
                    found.append(Generation(number, plans, divergences))
                    advance(bool(generation))
            for each in groups:
                journal.discard(each)
    return found[1:]


@dataclass(frozen=True)
class _Evolution:
    """How a generation follows another one. Plans are ``(plan, divergence on all tokens)``, best first."""

    space: space.Space
    scored: Scores
    tokens: int

    def begun(self, known: Generation, random: Random) -> list[tuple[WidthPlan, float]]:
        """The first generation on a grid: the best plan known, with what fits in steps of this grid."""
        return self._ranked([self.space.fitted(known.plans[0], random)], self.tokens)

    def after(self, known: Generation, random: Random) -> list[tuple[WidthPlan, float]]:
        """The best of a generation and of its offspring."""
        seen, offspring = set(known.plans), []
        for _ in range(OFFSPRING):
            plan = self.space.mutated(random.choice(known.plans), random)
            if plan not in seen:
                seen.add(plan)
                offspring.append(plan)
        few = max(1, round(self.tokens * FIRST_SHARE))
        survivors = [plan for plan, _ in self._ranked(offspring, few)[:SURVIVORS]]
        everyone = [*zip(known.plans, known.divergences, strict=True), *self._ranked(survivors, self.tokens)]
        return sorted(everyone, key=lambda scored: scored[1])[:PARENTS]

    def _ranked(self, plans: Sequence[WidthPlan], tokens: int) -> list[tuple[WidthPlan, float]]:
        """Plans and their divergences on so many tokens, best first."""
        # In this order, plans with the same first layers are neighbours.
        ordered = sorted(plans, key=lambda plan: [astuple(layer) for layer in plan.layers])
        jobs = [(ordered[at : at + TOGETHER], tokens) for at in range(0, len(ordered), TOGETHER)]
        divergences = [divergence for of_job in self.scored(jobs) for divergence in of_job]
        return sorted(zip(ordered, divergences, strict=True), key=lambda scored: scored[1])
