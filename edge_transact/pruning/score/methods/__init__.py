"""Scoring methods, one per file: they decide which units of a layer are kept. `pruning.methods` lists their names."""
