"""What a budget allows, as numbers that plans are measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_transact.errors import UsageError
from edge_transact.widths import WidthPlan


@dataclass(frozen=True)
class Limit:
    """One thing that must hold of a plan.

    Attributes:
        asked: What was asked for, as a person would say it: ``--ratio 0.3``.
        bound: The most that `measure` may be.
        measure: What a plan has of it.
        unit: Of `measure`, for people.
        nearest: Whether the nearest that a uniform plan's buckets give will do, though it be a little more.
    """

    asked: str
    bound: float
    measure: Callable[[WidthPlan], float]
    unit: str
    nearest: bool = False

    def holds(self, plan: WidthPlan) -> bool:
        """Whether a plan is within the bound."""
        return self.measure(plan) <= self.bound


def binding(limits: Sequence[Limit], smallest: WidthPlan) -> UsageError:
    """The failure that says which limits the smallest plan still exceeds."""
    said = [
        f"{limit.asked} allows {int(limit.bound):,} {limit.unit}, and the smallest model has "
        f"{int(limit.measure(smallest)):,}"
        for limit in limits
        if not limit.holds(smallest)
    ]
    return UsageError("; ".join(said), fix="Allow more, or give --heads and --intermediate.")
