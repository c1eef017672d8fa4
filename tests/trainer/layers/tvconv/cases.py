"""Sizes at which the translation-variant product is tested, and its dense form to compare with."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Case:
    images: int = 3
    channels: int = 5
    size: tuple[int, int] = (6, 7)
    kernel: int = 3
    stride: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        return -(-self.size[0] // self.stride), -(-self.size[1] // self.stride)

    def draw(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        """An image, weights, and the output's gradient, of numbers that float32 holds exactly."""
        generator = torch.Generator().manual_seed(self.channels)
        batch = (self.images, self.channels)
        shapes = [
            (*batch, *self.size),
            (*self.out_size, self.kernel**2, self.channels),
            (*batch, *self.out_size),
        ]
        image, weight, gradient = (torch.randn(s, generator=generator) for s in shapes)
        return image.to(dtype), weight.to(dtype), gradient.to(dtype)


# Widths of every vector and of their rests; images that go in eights, fours, twos and alone.
CASES = {
    "plain": Case(),
    "one image of one position": Case(images=1, channels=1, size=(1, 1)),
    "stride 2, odd": Case(stride=2, channels=16, size=(7, 9), images=8),
    "stride 2, even": Case(stride=2, channels=37, size=(8, 6), images=13),
    "stride 3": Case(stride=3, channels=20, size=(7, 8), images=2),
    "5 x 5": Case(kernel=5, channels=33, images=9),
    "5 x 5, stride 2": Case(kernel=5, stride=2, channels=8, size=(9, 5)),
    "a kernel larger than the image": Case(kernel=7, size=(2, 3), channels=4),
    "1 x 1": Case(kernel=1, channels=17),
    "threads": Case(images=15, channels=48, size=(14, 15)),
}


def unfolded(image: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """The product as the paper's code computes it: all patches, k^2 times the image."""
    height, width, taps, channels = weight.shape
    kernel = int(taps**0.5)
    patches = functional.unfold(image, kernel, padding=kernel // 2, stride=stride)
    patches = patches.view(len(image), channels, taps, height, width)
    return (patches * weight.permute(3, 2, 0, 1)).sum(2)


def dense(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Output and both gradients of the unfolded form."""
    image, weight, gradient = case.draw(dtype)
    image.requires_grad_()
    weight.requires_grad_()
    output = unfolded(image, weight, stride=case.stride)
    of_image, of_weight = torch.autograd.grad(output, (image, weight), gradient)
    return output.detach(), of_image, of_weight
