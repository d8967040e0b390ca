"""W4A16 on CPUs: kernels written as TIR around a few vector instructions.

`isa` has the instruction sets and selects the best that a target has, `matmul` makes the decode and prefill kernels,
`attention` those of the paged KV cache, and `kernels` decides which kernel computes a matmul.
"""
