"""The limits of a budget: what is measured of a plan, and how much of it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_transact.errors import UsageError
from edge_transact.widths import WidthPlan


@dataclass(frozen=True)
class Limit:
    """One bound of a budget.

    Attributes:
        asked: What the user asked for, in the user's terms: ``--ratio 0.3``.
        bound: The largest value of `measure` that is allowed.
        measure: Measures a plan.
        unit: The unit of `measure`, for messages.
        nearest: Whether a uniform plan may exceed the bound by the rounding of MLP dims to the nearest bucket.
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
    """The error that names the limits that the smallest plan still exceeds."""
    exceeded = [
        f"{limit.asked} allows {int(limit.bound):,} {limit.unit}, and the smallest model has "
        f"{int(limit.measure(smallest)):,}"
        for limit in limits
        if not limit.holds(smallest)
    ]
    return UsageError("; ".join(exceeded), fix="Allow more, or give --heads and --intermediate.")
