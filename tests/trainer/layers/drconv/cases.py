"""Layers of many shapes, with numbers for all that they are given."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.layers.drconv.geometry import Geometry, Pair, pair
from trainer.layers.drconv.parts import Filters


@dataclass(frozen=True, kw_only=True)
class Case:
    """The sizes of a layer and what it is given; `own` tables a region, or shared ones."""

    batch: int = 2
    inputs: int = 6
    outputs: int = 4
    height: int = 7
    width: int = 5
    kernel: int | Pair = 1
    stride: int | Pair = 1
    padding: int | Pair = 0
    groups: int = 1
    regions: int = 3
    terms: int = 4
    own: bool = False
    table_taps: int = 1
    coefficient_taps: int = 1
    fused: bool = False  # the guide's weight is given, and not its numbers

    @property
    def geometry(self) -> Geometry:
        return Geometry(
            kernel=pair(self.kernel),
            stride=pair(self.stride),
            padding=pair(self.padding),
            groups=self.groups,
        )

    def inputs_of(self, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
        """Image, guide (or its weight), coefficient, table, bias and the output's gradient."""
        draw = torch.Generator().manual_seed(seed)
        size = self.geometry.output_size((self.height, self.width))
        inputs_of_group = self.inputs // self.groups
        guide = (self.regions, self.inputs, 1, 1)
        shapes = {
            "image": (self.batch, self.inputs, self.height, self.width),
            "guide": guide if self.fused else (self.batch, self.regions, *size),
            "coefficient": (self.batch, self.regions, self.terms, self.coefficient_taps),
            "table": (
                *(self.regions if self.own else 1, self.terms),
                *(self.outputs, inputs_of_group, self.table_taps),
            ),
            "bias": (self.outputs,),
            "gradient": (self.batch, self.outputs, *size),
        }
        return {
            name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()
        }


POINTWISE = Case(inputs=40, outputs=70, regions=8, terms=8)
CASES = {
    "pointwise": POINTWISE,
    "odd sizes": Case(inputs=5, outputs=7),
    "wide": Case(inputs=150, outputs=8, height=4, width=4, regions=9, terms=8),
    "one region": replace(POINTWISE, regions=1),
    "batch of one": replace(POINTWISE, batch=1),
    "more regions than pixels": replace(POINTWISE, height=2, width=2, regions=20),
    "strided pointwise": Case(height=9, width=9, stride=2, inputs=10, groups=2, outputs=6),
    "3x3": Case(batch=1, inputs=36, outputs=40, kernel=3, padding=1, table_taps=9, terms=9),
    "strided groups": Case(batch=3, kernel=3, stride=2, padding=1, groups=2, table_taps=9),
    "unpadded": Case(kernel=3, table_taps=9),
    "depthwise": Case(inputs=37, outputs=37, groups=37, kernel=3, padding=1, table_taps=9),
    "strided depthwise": Case(
        inputs=8, outputs=8, groups=8, kernel=5, stride=2, padding=2, table_taps=25, regions=9
    ),
    "weighed by taps": Case(kernel=3, padding=1, table_taps=9, coefficient_taps=9),
    "depthwise, weighed by taps": Case(
        inputs=6, outputs=6, groups=6, kernel=3, padding=1, table_taps=9, coefficient_taps=9
    ),
    "two outputs a channel": Case(inputs=4, outputs=8, groups=4, kernel=3, padding=1, table_taps=9),
    "own tables": Case(inputs=34, outputs=33, regions=8, terms=9, own=True),
    "own tables, 3x3": Case(kernel=3, padding=1, groups=2, own=True, coefficient_taps=9, height=6),
    "own tables, depthwise": Case(
        inputs=6, outputs=6, groups=6, kernel=3, padding=1, own=True, coefficient_taps=9
    ),
    "guide made inside": replace(POINTWISE, height=17, width=19, fused=True),
    "guide made inside, groups": Case(inputs=12, outputs=10, groups=2, regions=11, fused=True),
    "guide made inside, wide": Case(inputs=150, outputs=70, regions=9, terms=8, fused=True),
    "guide made inside, own tables": Case(inputs=12, own=True, terms=5, fused=True),
}


def filters_of(given: dict[str, Tensor]) -> Filters:
    return Filters(given["coefficient"], given["table"])
