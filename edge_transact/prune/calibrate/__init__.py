"""Calibration: text as windows of tokens, and a model that runs on them layer by layer."""
