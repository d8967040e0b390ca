"""Weights solved again so that they make up for what was cut."""
