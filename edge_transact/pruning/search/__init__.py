"""Searches for better widths than predicted losses choose: plans evolve in a supernet of layers cut to many widths."""
