"""Calibration: text as windows of tokens, and a model run over them layer by layer."""
