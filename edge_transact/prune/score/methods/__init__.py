"""Scoring methods, one a file: what decides which heads, dims inside heads and MLP dims of a layer stay."""

from __future__ import annotations

from edge_transact.errors import UsageError, did_you_mean
from edge_transact.prune.score.methods.best import Best
from edge_transact.prune.score.methods.flap import Flap
from edge_transact.prune.score.methods.llm_pruner import LlmPruner
from edge_transact.prune.score.methods.magnitude import Magnitude
from edge_transact.prune.score.methods.random_scores import Random
from edge_transact.prune.score.methods.scorer import Scorer
from edge_transact.prune.score.methods.transact import Transact
from edge_transact.prune.score.methods.wanda import Wanda

METHODS: dict[str, type[Scorer]] = {
    "best": Best,
    "transact": Transact,
    "llm-pruner": LlmPruner,
    "wanda": Wanda,
    "flap": Flap,
    "magnitude": Magnitude,
    "random": Random,
}


def find_method(name: str) -> type[Scorer]:
    """The method of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", fix=did_you_mean(name, METHODS))
    return METHODS[name]
