"""Scoring methods, one per file: they decide which units of a layer are kept. `prune.methods` lists their names."""
