"""Large tables in large pages: on a CPU, rows read here and there miss fewer address translations.

Linux gives pages of 2 MiB where it is asked to before the first touch, and where its setting is
`madvise` or `always`. Elsewhere, or on failure, tables lie in small pages; no number changes.
"""

import ctypes
import mmap
from functools import cache

import torch
from jaxtyping import Shaped
from torch import Tensor

_WORTH_IT = 4 << 20  # bytes: two pages


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "..."]:
    """`torch.empty`, in large pages where that can be had and is worth it."""
    table = torch.empty(shape, dtype=dtype, device=device)
    advise = _madvise() if table.is_cpu and table.nbytes >= _WORTH_IT else None
    if advise is not None:
        # Whole small pages alone: the first and the last may belong to others, too.
        start = -(-table.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (table.data_ptr() + table.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_HUGEPAGE)
    return table


@cache
def _madvise() -> "ctypes._NamedFuncPointer | None":
    return ctypes.CDLL(None).madvise if hasattr(mmap, "MADV_HUGEPAGE") else None
