"""The search: generations of plans, of which the ones survive whose predictions are nearest to the source's.

Many are scored on a piece of a text, and the best of them on all of it. Rounds begin on a coarse grid of widths, and go
on around the best plan on finer ones. In the end, a plan must be better than the first one on text that no generation
saw. What a generation found is in the journal, so that an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
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
from edge_transact.pruning.search.scoring import PIECES, SEARCHED, UNSEEN, Scoring
from edge_transact.pruning.units import DEFAULT_UNITS
from edge_transact.widths import LayerWidths, WidthPlan

STEP = "search"

PARTS = (1, 4)
"""The rounds: the steps of their grids are these parts of the first one's."""

OFFSPRING, SURVIVORS, PARENTS = 32, 8, 6
"""Plans of a generation; those scored on all of the text; and those from which the next generation comes."""

TOGETHER = 4
"""Plans that are scored together, and share what they have in common."""

Ranking = list[tuple[WidthPlan, float]]
"""Plans and their divergences on a text, nats a token, best first."""


@dataclass(frozen=True)
class Generation:
    """The best plans known after a generation, by their divergences on the text that generations are compared on."""

    round: int
    ranking: Ranking


@dataclass(frozen=True)
class Found:
    """The course of a search, and the divergences of its first and last plans on the text it searched and another."""

    generations: Sequence[Generation]
    start: WidthPlan
    searched: Mapping[WidthPlan, float]
    unseen: Mapping[WidthPlan, float]

    @property
    def best(self) -> WidthPlan:
        """The least sum of both divergences among the first plan and the last ones that beat it on the unseen text."""
        better = [plan for plan, _ in self.generations[-1].ranking if self.unseen[plan] < self.unseen[self.start]]
        return min((self.start, *better), key=lambda plan: self.searched[plan] + self.unseen[plan])

    def note(self) -> str:
        """What came of it, with the divergences of the first plan and of the best other one."""
        is_kept = self.best == self.start
        end = self.generations[-1].ranking[0][0] if is_kept else self.best
        searched, unseen = (f"{of[self.start]:.3f} → {of[end]:.3f}" for of in (self.searched, self.unseen))
        outcome = "kept its first plan" if is_kept else "found a better plan"
        where = f"{searched} nats a token on the text where it compared plans, {unseen} on text that it had not seen"
        return f"the search {outcome}: divergence {where}"


def search(
    model: LayerwiseModel,
    scores: Sequence[LayerScores],
    start: WidthPlan,
    limits: Sequence[Limit],
    texts: Mapping[str, torch.Tensor],
    options: PruneOptions,
    journal: Journal,
) -> Found:
    """Searches from a plan that is within limits.

    Args:
        model: The source, and the windows on which the supernet is solved.
        texts: The windows on which plans are compared, as `compared_texts` returns them.
    """

    def known(step: str, ranking: Callable[[], Ranking]) -> Ranking:
        """The journal's ranking of this name, which is found if it is missing."""
        if step not in journal:
            journal.note(step, [(list(map(astuple, plan.layers)), loss) for plan, loss in ranking()])
        noted = journal.noted(step)
        return [(start.with_layers(LayerWidths(*widths) for widths in layers), loss) for layers, loss in noted]

    generations, found = -(-options.search_generations // len(PARTS)), [Generation(0, [(start, 0.0)])]
    unseen: dict[WidthPlan, float] = {}
    drops = options.units or DEFAULT_UNITS if options.drop else ()
    first = grid = space.coarse(model.checkpoint.plan, start, options.bucket, drops)
    with bar(STEP, generations * len(PARTS)) as advance:
        for number, part in enumerate(PARTS):
            if number:
                grid = space.fine(model.checkpoint.plan, found[-1].ranking[0][0], options.bucket, first, part)
            name = f"supernet-{number}"
            check = f"search-{number}-{UNSEEN}"
            if check not in journal:
                supernet.solve(model, scores, grid, journal, name)
            groups = [supernet.group(name, index) for index in range(len(grid))]
            scoring = Scoring(model.checkpoint.path, [journal.file(each) for each in groups], scores, texts)
            with scoring_in(options.search_on, scoring) as scored:
                evolution = _Evolution(space.Space(model.checkpoint.plan, grid, limits), scored)
                for generation in range(generations + 1):
                    step = f"search-{number}-{generation}"
                    follow = evolution.after if generation else evolution.begun
                    random = Random(f"{options.seed}, {step}")
                    ranking = known(step, partial(follow, found[-1].ranking, generation, random))
                    found.append(Generation(number, ranking))
                    advance(bool(generation))
                # The first plan is in the first supernet alone.
                checked = [plan for plan, _ in found[-1].ranking] if number else [start]
                unseen |= known(check, partial(evolution.ranked, checked, UNSEEN))
            for each in groups:
                journal.discard(each)
    return Found(found[1:], start, dict(found[1].ranking + found[-1].ranking), unseen)


@dataclass(frozen=True)
class _Evolution:
    """How a generation follows another one."""

    space: space.Space
    scored: Scores

    def begun(self, known: Ranking, _generation: int, random: Random) -> Ranking:
        """The first generation on a grid: the best plan known, and with what fits in steps of this grid."""
        (best, _), *_ = known
        return self.ranked([*{best, self.space.fitted(best, random)}], SEARCHED)

    def after(self, known: Ranking, generation: int, random: Random) -> Ranking:
        """The best of a generation and of its offspring."""
        parents, offspring = [plan for plan, _ in known], []
        seen = set(parents)
        for _ in range(OFFSPRING):
            plan = self.space.mutated(random.choice(parents), random)
            if plan not in seen:
                seen.add(plan)
                offspring.append(plan)
        survivors = [plan for plan, _ in self.ranked(offspring, f"piece-{generation % PIECES}")[:SURVIVORS]]
        return sorted(known + self.ranked(survivors, SEARCHED), key=lambda scored: scored[1])[:PARENTS]

    def ranked(self, plans: Sequence[WidthPlan], text: str) -> Ranking:
        """Plans and their divergences on a text, best first."""
        # In this order, plans with the same first layers are neighbours.
        ordered = sorted(plans, key=lambda plan: [astuple(layer) for layer in plan.layers])
        jobs = [(ordered[at : at + TOGETHER], text) for at in range(0, len(ordered), TOGETHER)]
        divergences = [divergence for of_job in self.scored(jobs) for divergence in of_job]
        return sorted(zip(ordered, divergences, strict=True), key=lambda scored: scored[1])
