"""The names of the scoring methods; their classes are in `score.methods`, one per file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_transact.pruning.score.methods.scorer import Scorer

METHODS = {
    "obs": "obs.Obs",
    "transact": "transact.Transact",
    "llm-pruner": "llm_pruner.LlmPruner",
    "wanda": "wanda.Wanda",
    "flap": "flap.Flap",
    "magnitude": "magnitude.Magnitude",
    "random": "random_scores.Random",
}
"""The module and class of each method, as text: the command line offers the names without importing torch."""


def find_method(name: str) -> type[Scorer]:
    """The method with that name of `METHODS`."""
    module, _, method = METHODS[name].partition(".")
    scorer: type[Scorer] = getattr(import_module(f"edge_transact.pruning.score.methods.{module}"), method)
    return scorer
