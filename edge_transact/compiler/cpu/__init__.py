"""W4A16 on CPUs: kernels written as TIR around a few vector instructions.

`isa` has the instruction sets and selects the best that a target has, `matmul` makes the decode and prefill kernels,
`attention` those of the paged KV cache, and `kernels` decides which kernel computes a matmul.

Accumulators are buffers of TIR's default scope. TVM puts those of under 1 KiB on the stack, from where LLVM takes them
to registers; of a buffer of scope ``local`` it makes a workspace, which each launch asks the runtime for, and which is
written in every iteration.
"""
