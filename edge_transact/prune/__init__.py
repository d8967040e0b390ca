"""Pruning: budgets to widths, scores to indices, and the smaller checkpoint. Names load on first use, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_transact.prune.options import PruneOptions
    from edge_transact.prune.run import PruneResult, prune

__all__ = ["PruneOptions", "PruneResult", "prune"]

_MODULES = {"PruneOptions": "options", "PruneResult": "run", "prune": "run"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
