"""Triton kernels for CUDA devices. Everything they do, plain torch does too, in more passes.

`choose` is the one place that decides; Triton is imported only where it is going to be used.
"""

import logging
from functools import cache
from importlib.util import find_spec
from subprocess import SubprocessError
from types import ModuleType

import torch

_log = logging.getLogger(__name__)


def choose(device: torch.device) -> ModuleType | None:
    """The module `sharded_fc.kernels.cuda` for a CUDA device, None where torch is to do it."""
    if device.type != "cuda" or find_spec("triton") is None or not _launches():
        return None
    from sharded_fc.kernels import cuda

    return cuda


@cache
def _launches() -> bool:
    """Whether kernels start at all: Triton makes its launcher with the machine's C compiler."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except (RuntimeError, OSError, SubprocessError) as error:
        _log.info("no kernels of our own, plain torch instead: %s", error)
        return False
    return True
