"""Triton kernels for CUDA devices; everything they do, plain torch does too."""
