"""Pruning: budgets to widths, scores to indices, and the smaller checkpoint."""

from edge_transact.prune.budget import Budget
from edge_transact.prune.pipeline import PruneResult, prune

__all__ = ["Budget", "PruneResult", "prune"]
