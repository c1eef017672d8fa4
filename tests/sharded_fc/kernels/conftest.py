"""The kernels' tests need no GPU: they run in Triton's interpreter."""

from collections.abc import Iterator

import pytest

from tests.sharded_fc.kernels.interpreter import Interpreter


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """`interpreter(fn, *args)` calls `fn` where kernels run on CPU tensors."""
    process = Interpreter()
    yield process
    process.close()
