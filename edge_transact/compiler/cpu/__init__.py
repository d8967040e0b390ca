"""W4A16 on CPUs: kernels written as TIR around a few vector instructions.

Accumulators are buffers of TIR's default scope, which TVM puts on the stack and LLVM in registers if they are under
1 KiB. A buffer of scope ``local`` would become a workspace that each launch asks the runtime for.
"""
