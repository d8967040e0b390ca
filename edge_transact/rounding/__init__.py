"""Rounding of weights to MLC's 4-bit grid: which codes and scales stand for a matrix.

The format (`edge_transact.weights.w4`) allows 16 codes and scales of either sign per group of 32 weights. MLC's own
rounding, `w4.nearest`, uses 15 codes, positive scales, and the scale that just reaches the largest weight. What is
chosen here costs nothing at run time: the same bytes, kernels and libraries.

- `search` needs no text: the scale of every group by least squares, with inputs weighted by `importance`.
- `gptq` rounds one matrix, given the Gram matrix of its inputs.
- `calibrated` rounds a model with it, layer by layer, on calibration text.
- `distillation` fits the scales of a `student`, which is the rounded model, to the exact model's predictions.
- `best` is both, one after the other.
- `store` holds codes and scales on the way to the shards.
"""
