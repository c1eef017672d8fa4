"""The guide: a small convolution whose highest output says which region a pixel belongs to."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.drconv.geometry import Pair


class _Last:
    """What a guide said last; left behind when a network is copied or saved."""

    def __init__(self) -> None:
        self.numbers: Tensor | None = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Last:
        return _Last()

    def __reduce__(self) -> tuple[type[_Last], tuple[()]]:
        return _Last, ()


class Guide(nn.Module):
    """A convolution without bias to one number a region.

    One layer owns it and runs it; layers later in the same forward may follow it (the released code
    shares one between the 1x1 convolutions of a block) and read what it said, at the nearest pixel
    where their sizes differ.
    """

    def __init__(
        self,
        inputs: int,
        regions: int,
        kernel_size: int | Pair = 1,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
    ) -> None:
        super().__init__()
        self.regions = regions
        self.conv = nn.Conv2d(
            inputs, regions, kernel_size, stride=stride, padding=padding, bias=False
        )
        self.followed = False
        self._last = _Last()

    def forward(
        self, image: Float[Tensor, "batch in height width"]
    ) -> Float[Tensor, "batch m h w"]:
        """One number for each pixel and region."""
        numbers = self.conv(image)
        if self.followed:
            self._last.numbers = numbers
        return numbers

    def said(self, size: Pair) -> Float[Tensor, "batch m h w"]:
        """What the owner's call said, for an output of this height and width."""
        numbers = self._last.numbers
        if numbers is None:
            raise ValueError(
                "a layer follows a guide that has not run; run the layer that owns the guide first"
            )
        return at_size(numbers, size)


def at_size(numbers: Float[Tensor, "batch m height width"], size: Pair) -> Tensor:
    """A guide's numbers for an output of this height and width: those of the nearest pixel."""
    same = tuple(numbers.shape[2:]) == size
    return numbers if same else functional.interpolate(numbers, size, mode="nearest")
