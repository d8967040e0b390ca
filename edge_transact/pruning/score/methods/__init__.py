"""Scoring methods, one per file: they decide which units of a layer are kept. `pruning.options` lists their names."""
