"""Runs a built library on this machine: the model, its text, and conversations."""
