"""W4A16 on CPUs: kernels written as TIR around a handful of vector instructions, and their use in a model.

`isa` has the instructions (and says which ones a target has), `matmul` the decode and prefill products, `attention` the
paged attention, `kernels` says which of them a product takes.
"""
