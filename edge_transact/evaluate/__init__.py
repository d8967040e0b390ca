"""The quality of a model: perplexity and tasks."""

from edge_transact.evaluate.perplexity import PerplexityResult, perplexity

__all__ = ["PerplexityResult", "perplexity"]
