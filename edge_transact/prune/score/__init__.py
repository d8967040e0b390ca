"""Scores of what can be cut, and how much each layer is missed."""
