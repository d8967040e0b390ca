"""Rounding of weights to MLC's 4-bit grid: the codes and scales of a matrix.

The format (`edge_transact.weights.w4`) allows 16 codes and scales of either sign per group of 32 weights. MLC's own
rounding, `w4.nearest`, uses 15 codes, positive scales, and the scale that just reaches the largest weight. `search`
needs no text; `best` reads text: codes from `calibrated`, then scales from `distillation`. Bytes and kernels stay.
"""
