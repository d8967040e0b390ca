"""W4A16 on GPUs through OpenCL: kernels written as TIR that serve layers of all widths.

`matmul` has the decode and prefill kernels and selects between them; `schedules` schedules all other kernels.
"""
