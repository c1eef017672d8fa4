"""Tables of taps against loops over every position of the kernel."""

from itertools import pairwise

import pytest

from tests.trainer.layers.tvconv.cases import CASES, Case
from trainer.layers.tvconv.taps import Geometry, TapTable


def listed(table: TapTable) -> list[list[tuple[int, int]]]:
    pairs = list(zip(table.row.tolist(), table.source.tolist(), strict=True))
    return [pairs[a:b] for a, b in pairwise(table.first.tolist())]


def by_loops(case: Case, *, transposed: bool) -> list[list[tuple[int, int]]]:
    (height, width), (out_height, out_width) = case.size, case.out_size
    positions = height * width if transposed else out_height * out_width
    taps: list[list[tuple[int, int]]] = [[] for _ in range(positions)]
    for place in range(case.kernel**2):
        down, right = (offset - case.kernel // 2 for offset in divmod(place, case.kernel))
        for output in range(out_height * out_width):
            y, x = divmod(output, out_width)
            y, x = y * case.stride + down, x * case.stride + right
            if 0 <= y < height and 0 <= x < width:
                row, source = output * case.kernel**2 + place, y * width + x
                taps[source if transposed else output].append(
                    (row, output if transposed else source)
                )
    return taps


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tables_hold_every_tap_on_the_image_in_the_kernels_order(case: Case):
    shape = Geometry(in_size=case.size, kernel=case.kernel, stride=case.stride)
    assert shape.out_size == case.out_size
    assert listed(shape.forward) == by_loops(case, transposed=False)
    assert listed(shape.transposed) == by_loops(case, transposed=True)
