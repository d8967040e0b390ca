"""A model on calibration text, layer by layer: what pruning scores and rounding fits.

- `options`: which text, how much of it, and how it is cut into windows.
- `windows`: draws the windows. `suitability` refuses text that says nothing about the model's inputs.
- `model`: the layers, one at a time in memory, and the hidden states of all windows between them.
- `gram`: sums of products of a layer's inputs.
- `divergence`: how far a changed model's predictions are from the original's.
"""
