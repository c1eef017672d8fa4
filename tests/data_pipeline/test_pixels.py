"""Levels become numbers from -1 to 1 exactly, and memory is lent to one batch at a time."""

import numpy as np
import pytest
import torch

from data_pipeline.pixels import MOST_FREE, Buffers, scale

SHAPE = (2, 3, 4, 4)


@pytest.mark.parametrize("faces", [1, 3, 4, 5, 9])
def test_every_level_is_the_float32_nearest_to_its_value(faces):
    level = np.arange(faces * 3 * 16 * 16, dtype=np.int64).reshape(faces, 3, 16, 16) % 256
    scaled = np.full(level.shape, np.nan, np.float32)
    scale(level.astype(np.uint8), scaled)
    # One rounding, of the division: x - 127.5 is exact.
    np.testing.assert_array_equal(scaled, ((level - 127.5) / 127.5).astype(np.float32))


def test_memory_in_use_is_never_lent_again():
    buffers = Buffers()
    lent = [buffers.take(SHAPE) for _ in range(5)]
    assert len({array.ctypes.data for array in lent}) == 5


@pytest.mark.parametrize("view", [lambda t: t, lambda t: t[1:], lambda t: t.detach().numpy()])
def test_memory_comes_back_with_the_last_view_of_its_tensor(view):
    buffers = Buffers()
    tensor = torch.from_numpy(buffers.take(SHAPE))
    place, kept = tensor.data_ptr(), view(tensor)
    del tensor
    other = buffers.take(SHAPE)
    assert other.ctypes.data != place
    del kept
    assert buffers.take(SHAPE).ctypes.data == place


def test_memory_of_another_shape_is_dropped_and_no_more_than_a_few_batches_are_kept():
    buffers = Buffers()
    lent = [buffers.take(SHAPE) for _ in range(MOST_FREE + 3)]
    places = {array.ctypes.data for array in lent}
    lent.clear()
    again = [buffers.take(SHAPE) for _ in range(MOST_FREE)]
    assert {array.ctypes.data for array in again} <= places
    again.clear()
    other = buffers.take((1, 3, 4, 4))
    assert other.shape == (1, 3, 4, 4)
    assert other.size == 48
