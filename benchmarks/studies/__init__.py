"""Studies of what pruning does to a model's predictions: tables and plots of ``docs/lab/paper.md``."""
