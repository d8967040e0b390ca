"""Solves weights again to make up for what was cut."""
