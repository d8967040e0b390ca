"""Pruning: budgets to widths, scores to indices, and the smaller checkpoint."""

from edge_transact.prune.allocate.budget import Budget
from edge_transact.prune.run import PruneResult, prune

__all__ = ["Budget", "PruneResult", "prune"]
