"""Pruning: budgets to widths, scores to indices, and the smaller checkpoint."""

from edge_transact.prune.allocation import Budget, parse_parameters
from edge_transact.prune.pipeline import PruneResult, prune

__all__ = ["Budget", "PruneResult", "parse_parameters", "prune"]
