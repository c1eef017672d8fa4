"""Where DRConv's filters come from: sums of tables whose coefficients an image decides."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.drconv.geometry import Geometry
from trainer.layers.drconv.graph import in_graph
from trainer.layers.drconv.parts import Filters

GeneratorName = Literal["templates", "pooled"]


class Templates(nn.Module):
    """The released code's generator: regions mix a few templates that they share.

    a = 2 sigmoid(linear(channel means)) / n; a region's filter is sum over j < n of a_j T_j. At the
    start each a is near 1 / n, so every region begins with the templates' mean.
    """

    def __init__(
        self, inputs: int, outputs: int, *, geometry: Geometry, regions: int, templates: int = 8
    ) -> None:
        super().__init__()
        self.regions = regions
        self.routing = nn.Linear(inputs, regions * templates)
        shape = (templates, outputs, inputs // geometry.groups, *geometry.kernel)
        self.templates = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first weights as the released code does."""
        bound = math.sqrt(6 / self.templates[0, 0].numel())
        nn.init.uniform_(self.templates, -bound, bound)
        nn.init.normal_(self.routing.weight, std=0.01)
        nn.init.zeros_(self.routing.bias)

    def forward(self, image: Float[Tensor, "batch in height width"]) -> Filters:
        """The filters of each sample and region."""
        number = len(self.templates)
        means = image.mean((2, 3)) if in_graph() else _Means.apply(image)
        coefficient = self.routing(means).sigmoid().unflatten(1, (self.regions, number))
        return Filters(coefficient[..., None] * (2 / number), self.templates.flatten(3)[None])


class Pooled(nn.Module):
    """The paper's generator: pooled to the kernel's size, two 1x1 convolutions, a sigmoid between.

    The second has a group for each region (arXiv:2003.12243, section 3.2), so a region's filter is
    a table of its own plus m others times what the first says of the region at each tap: weights of
    m (m + 1) filters. The paper gives no first weights: here both parts start with half the
    variance of He's uniform ones.
    """

    def __init__(self, inputs: int, outputs: int, *, geometry: Geometry, regions: int) -> None:
        super().__init__()
        self.regions = regions
        self.kernel = geometry.kernel
        self.hidden = nn.Conv2d(inputs, regions * regions, 1)
        inputs_of_group = inputs // geometry.groups
        self.tables = nn.Parameter(torch.empty(regions, regions + 1, outputs, inputs_of_group, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the first weights."""
        seen = self.tables[0, 0, 0].numel() * math.prod(self.kernel)
        bound = math.sqrt(6 / seen)
        nn.init.uniform_(self.tables[:, :1], -bound / math.sqrt(2), bound / math.sqrt(2))
        others = bound * math.sqrt(2 / self.regions)  # the sigmoid is near a half
        nn.init.uniform_(self.tables[:, 1:], -others, others)
        nn.init.normal_(self.hidden.weight, std=0.01)
        assert self.hidden.bias is not None
        nn.init.zeros_(self.hidden.bias)

    def forward(self, image: Float[Tensor, "batch in height width"]) -> Filters:
        """The filters of each sample and region."""
        pooled = functional.adaptive_avg_pool2d(image, self.kernel)
        share = self.hidden(pooled).sigmoid().flatten(2).unflatten(1, (self.regions, self.regions))
        return Filters(functional.pad(share, (0, 0, 1, 0), value=1.0), self.tables)


class _Means(torch.autograd.Function):
    """Channel means, whose gradient is not written out for every pixel before it is added."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        ctx.size = image.shape
        return image.mean((2, 3))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        height, width = ctx.size[2:]
        return (gradient / (height * width))[..., None, None].expand(ctx.size)


GENERATORS = {"templates": Templates, "pooled": Pooled}
