"""A process in which Triton interprets its kernels on CPU tensors.

Triton decides when it is first imported, so tests cannot switch it on in their own process. What
runs there is a top-level function of an importable module that imports kernels only when called.
"""

import os
import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

CHECKED_PACKAGE = "sharded_fc"


class Interpreter:
    """`interpreter(fn, *args)` is `fn(*args)`, called there."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)

    def __call__(self, fn: Callable[..., Any], *args: Any) -> Any:
        """By value in both directions: torch's own pickler hands out shared memory."""
        return pickle.loads(self._pool.submit(_call, pickle.dumps((fn, args))).result())

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    from jaxtyping import install_import_hook

    install_import_hook(CHECKED_PACKAGE, "beartype.beartype")
    import torch

    torch.set_num_threads(1)


def _call(message: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fn, args = pickle.loads(message)
        return pickle.dumps(fn(*args))
