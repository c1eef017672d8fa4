"""Fixtures that more than one layer's tests use."""

import ctypes
from collections.abc import Iterator

import pytest

from sharded_fc.native_build import SWITCH
from tests.sharded_fc.kernels.interpreter import Interpreter
from trainer.layers.native.code import library


@pytest.fixture
def compiled(monkeypatch) -> ctypes.CDLL:
    """The layers' compiled code."""
    monkeypatch.delenv(SWITCH, raising=False)
    code = library()
    if code is None:
        pytest.skip("no compiler, so no native code")
    return code


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """`interpreter(fn, *args)` calls `fn` where Triton's kernels run on CPU tensors."""
    process = Interpreter()
    yield process
    process.close()
