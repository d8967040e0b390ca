"""W4A16 on GPUs through OpenCL: kernels written as TIR that serve layers of all widths.

`kernels` selects between the matmuls of one row (`decode`) and of many (`prefill`). They call the vector functions of
``w4.cl`` through `source`. `schedules` schedules all other kernels.
"""
