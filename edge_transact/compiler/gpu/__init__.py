"""W4A16 on GPUs through OpenCL: kernels written as TIR that serve layers of all widths.

`kernels` selects between the matmuls of one row (`decode`) and those of many (`prefill`); ``w4.cl`` has what they
compute on vectors, and `source` calls it. `schedules` schedules all other kernels.
"""
