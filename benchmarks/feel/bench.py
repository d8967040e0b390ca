"""Whether a bench's intervals hold the truth: simulated benches of two models whose ratio is known."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.page import table
from edge_transact.bench.analysis.intervals import Estimate, speedup, turns
from edge_transact.bench.records.conditions import MOST_ROUNDS, Conditions
from edge_transact.bench.records.plan import Lengths, make_rounds

TRIALS = 4000
ROUNDS = (3, 5, 10, 20)
UNTIL = 0.03
OWN, LOAD = 0.05, 0.2
"""Standard deviations of the logarithms: of a repetition's own noise, and of a load that a whole round has."""

Noise = Callable[[random.Random, int], float]
"""The logarithm of the noise of a repetition, given its place in time."""


def measure(_scratch: Path) -> str:
    """Simulate, and return the section's table."""
    machines: dict[str, Noise] = {
        f"each repetition varies by {OWN:.0%}": lambda dice, place: dice.gauss(0, OWN),
        "the same, and the machine slows down by 2 % from visit to visit": lambda dice, place: (
            dice.gauss(0, OWN) + 0.02 * place
        ),
        "the same without the drift, and one repetition of five takes half as long again": lambda dice, place: (
            dice.gauss(0, OWN) + (math.log(1.5) if dice.random() < 0.2 else 0)
        ),
    }
    rows = [[name, *_cells(noise)] for name, noise in machines.items()]
    return "\n".join(
        [
            f"{TRIALS:,} simulated benches of two equal models for each figure. In all of them, a load of the machine "
            f"varies by {LOAD:.0%} from round to round. The figures: how many intervals of the ratio hold 1, which "
            "should be 95 %; the mean half-width; with `--until`, the mean number of rounds. Last, the mean ratio "
            f"after {ROUNDS[1]} rounds, which should be 1.",
            "",
            table(["noise", *(f"{rounds} rounds" for rounds in ROUNDS), f"`--until {UNTIL:.0%}`", "ratio"], rows),
        ]
    )


def _cells(noise: Noise) -> list[str]:
    fixed = {rounds: [_bench(random.Random(seed), noise, rounds) for seed in range(TRIALS)] for rounds in ROUNDS}
    stopped, rounds = zip(*(_until(random.Random(seed), noise) for seed in range(TRIALS)), strict=True)
    mean = math.exp(statistics.fmean(math.log(ratio.value) for ratio in fixed[ROUNDS[1]]))
    return [
        *(_cell(found) for found in fixed.values()),
        f"{_cell(stopped)}, {statistics.fmean(rounds):.0f} rounds",
        f"{mean:.3f}",
    ]


def _cell(found: Sequence[Estimate]) -> str:
    held = statistics.fmean(ratio.verdict == "noise" for ratio in found)
    return f"{held:.1%}, ±{statistics.fmean(ratio.half_width or 0 for ratio in found):.1%}"


def _bench(dice: random.Random, noise: Noise, rounds: int) -> Estimate:
    return _ratio(_measured(dice, noise, rounds), rounds)


def _until(dice: random.Random, noise: Noise) -> tuple[Estimate, int]:
    """The ratio, and the rounds after which ``--until`` stops."""
    measured = _measured(dice, noise, MOST_ROUNDS)
    for rounds in range(Conditions().rounds, MOST_ROUNDS + 1):
        ratio = _ratio(measured, rounds)
        if (ratio.half_width or 0) <= UNTIL:
            break
    return ratio, rounds


def _measured(dice: random.Random, noise: Noise, rounds: int) -> list[list[float]]:
    """Seconds of each of two models by round, in the order in which a bench measures them."""
    seconds: list[list[float]] = [[], []]
    place = 0
    for visits in make_rounds(2, [Lengths(1, 1)], [1] * rounds):
        load = dice.gauss(0, LOAD)
        for visit in visits:
            seconds[visit.model].append(math.exp(load + noise(dice, place)))
            place += 1
    return seconds


def _ratio(seconds: list[list[float]], rounds: int) -> Estimate:
    first, second = (
        turns((("", number), value) for number, value in enumerate(model[:rounds])) for model in seconds
    )  # fmt: skip
    ratio = speedup(first, second)
    assert ratio is not None
    return ratio
