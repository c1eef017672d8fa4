"""Triton kernels for CUDA devices. Everything they do, plain torch does too, in more passes.

`choose` is the one place that decides; Triton is imported only where it is going to be used.
"""

from importlib.util import find_spec
from types import ModuleType

import torch


def choose(device: torch.device) -> ModuleType | None:
    """The module `sharded_fc.kernels.cuda` for a CUDA device, None where torch is to do it."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    from sharded_fc.kernels import cuda

    return cuda
