"""What the GPU kernels of a decoded token read, write and compute, found in their TIR."""
