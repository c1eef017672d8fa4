"""Triton kernels of the layers, for CUDA devices; plain torch does all they do, in more passes.

Triton is imported only where a kernel is going to be used.
"""

import torch

from sharded_fc.kernels import choose


def usable(device: torch.device) -> bool:
    """Whether kernels start on this device."""
    return choose(device) is not None
