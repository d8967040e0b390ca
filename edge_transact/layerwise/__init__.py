"""A model on calibration text, layer by layer: what pruning scores and rounding fits."""
