"""Dynamic region-aware convolution (DRConv, arXiv:2003.12243): pixels choose among m filters.

A learnt guide divides an image into regions, and each region is convolved with a filter of its own
that the image itself decides, for the products of one convolution. How it is computed is in
`function.py`, and where filters come from in `generators.py`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.layers.drconv.function import MOST_REGIONS, region_conv
from trainer.layers.drconv.generators import GENERATORS, GeneratorName
from trainer.layers.drconv.geometry import Geometry, Pair, pair
from trainer.layers.drconv.guide import Guide, at_size
from trainer.layers.drconv.usage import Usage


class DRConv2d(nn.Module):
    """In place of `torch.nn.Conv2d` of the same sizes.

    `generator` is the released code's "templates" (8 filters' weights, whatever `regions`) or the
    paper's "pooled" (m (m + 1) filters'). The guide is its own, of the kernel's size with the paper
    and a 1x1 with the released code, or that of an earlier layer, which this one then follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        groups: int = 1,
        bias: bool = True,
        regions: int = 8,
        generator: GeneratorName = "templates",
        guide: Guide | Literal["own"] = "own",
    ) -> None:
        super().__init__()
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"{groups} groups divide neither evenly: {inputs} inputs, {outputs} outputs; "
                "use a number of groups that divides both"
            )
        if not 1 <= regions <= MOST_REGIONS:
            raise ValueError(f"{regions} regions; use 1 to {MOST_REGIONS}")
        self.geometry = Geometry(
            kernel=pair(kernel_size), stride=pair(stride), padding=pair(padding), groups=groups
        )
        self.inputs, self.outputs, self.regions = inputs, outputs, regions
        self.generator = GENERATORS[generator](
            inputs, outputs, geometry=self.geometry, regions=regions
        )
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.guide: Guide | None = None
        self._follows: tuple[Guide, ...] = ()  # in a tuple, so that its weights stay its owner's
        if guide == "own":
            self.guide = self._own_guide(generator)
        else:
            if guide.regions != regions:
                raise ValueError(
                    f"a guide to {guide.regions} regions for a layer of {regions}; use one number"
                )
            guide.followed = True
            self._follows = (guide,)
        self.usage: Usage | None = None

    def _own_guide(self, generator: GeneratorName) -> Guide:
        geometry = self.geometry
        if generator == "pooled" or geometry.pointwise:
            return Guide(
                self.inputs,
                self.regions,
                geometry.kernel,
                stride=geometry.stride,
                padding=geometry.padding,
            )
        return Guide(self.inputs, self.regions)

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        geometry = self.geometry
        return (
            f"{self.inputs}, {self.outputs}, kernel_size={geometry.kernel}, "
            f"stride={geometry.stride}, padding={geometry.padding}, groups={geometry.groups}, "
            f"regions={self.regions}"
        )

    def forward(
        self, image: Float[Tensor, "batch in height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """The convolution, each pixel with its region's filter.

        Under autocast the result has autocast's type. The choice and the filters are made in
        float32: a choice among numbers rounded to bfloat16 would be another one.
        """
        device = image.device.type
        cast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if cast else image.dtype
        with torch.autocast(device, enabled=False):
            wide = image.to(next(self.generator.parameters()).dtype)
            # On a GPU products have operands of autocast's type, and sums of float32.
            operand = image.to(dtype) if cast and device == "cuda" else wide
            return self._convolve(wide, operand).to(dtype)

    def _convolve(self, image: Tensor, operand: Tensor) -> Tensor:
        geometry, guide = self.geometry, self.guide
        size = geometry.output_size((image.shape[2], image.shape[3]))
        numbers = weight = None
        if guide is None:
            numbers = self._follows[0].said(size)
        elif geometry.pointwise and not guide.followed and operand is image:
            weight = guide.conv.weight
        else:
            numbers = at_size(guide(image), size)
        out, mask = region_conv(
            operand,
            self.generator(image),
            guide=numbers,
            guide_weight=weight,
            bias=self.bias,
            geometry=geometry,
        )
        if self.usage is not None:
            self.usage.add(mask)
        return out
