"""Chooses a model for a budget: dense, cut, in fewer bits or both, each with its size, times, quality and cost."""
