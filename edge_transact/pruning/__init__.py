"""Pruning: budgets to widths, scores to indices, and the smaller checkpoint. `run.prune` is the whole of it."""
