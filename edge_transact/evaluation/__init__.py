"""The quality of a model: perplexity and tasks."""
