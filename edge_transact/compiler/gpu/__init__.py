"""W4A16 on GPUs through OpenCL: kernels written as TIR that serve layers of all widths, and call ``w4.cl``."""
