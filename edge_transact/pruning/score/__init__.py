"""Scores of the units that can be cut, and how sensitive the model is to each layer."""
