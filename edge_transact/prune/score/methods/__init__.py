"""Scoring methods, one per file: they decide which units of a layer are kept."""

from __future__ import annotations

from collections.abc import Mapping

from edge_transact.errors import UsageError, did_you_mean
from edge_transact.prune.score.methods.best import Best
from edge_transact.prune.score.methods.flap import Flap
from edge_transact.prune.score.methods.llm_pruner import LlmPruner
from edge_transact.prune.score.methods.magnitude import Magnitude
from edge_transact.prune.score.methods.random_scores import Random
from edge_transact.prune.score.methods.scorer import Scorer
from edge_transact.prune.score.methods.transact import Transact
from edge_transact.prune.score.methods.wanda import Wanda

METHODS: Mapping[str, type[Scorer]] = {
    "best": Best,
    "transact": Transact,
    "llm-pruner": LlmPruner,
    "wanda": Wanda,
    "flap": Flap,
    "magnitude": Magnitude,
    "random": Random,
}

DEFAULT_METHOD = "best"


def find_method(name: str) -> type[Scorer]:
    """The method with that name.

    Raises:
        UsageError: There is no such method.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", fix=did_you_mean(name, METHODS))
    return METHODS[name]
