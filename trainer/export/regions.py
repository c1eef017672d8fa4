"""DRConv in operations that ONNX has: a region's filter chosen by multiplying with zeros and ones.

ONNX has no product whose right side changes from pixel to pixel, and no loop over regions of any
size that is fast. So every filter meets every pixel, and a pixel's own is picked out: with the
released generator that is `templates` times the multiply-adds, in one convolution with constant
weights; with the paper's `regions` times, in a product for each tap of the kernel.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.generators import Pooled, Templates
from trainer.layers.drconv.guide import at_size

Scale = Float[Tensor, " out"]


def region_form(layer: DRConv2d) -> nn.Module:
    """The layer's exportable form, which takes over its guide and its generator's first part."""
    if isinstance(layer.generator, Templates):
        return TemplatesForm(layer, layer.generator)
    return PooledForm(layer, layer.generator)


class RegionForm(nn.Module):
    """What both generators' forms share: who chooses, and the bias."""

    bias: Tensor

    def __init__(self, layer: DRConv2d) -> None:
        super().__init__()
        self.geometry = layer.geometry
        self.regions = layer.regions
        self.guide = layer.guide
        self.follows = layer._follows
        weight = next(layer.generator.parameters())
        bias = weight.new_zeros(layer.outputs) if layer.bias is None else layer.bias
        self.register_buffer("bias", bias.detach())

    def chosen(self, image: Tensor) -> tuple[tuple[int, int], Float[Tensor, "batch m pixels"]]:
        """The output's size; one where a pixel's region is (the first of equals), else zero."""
        size = self.geometry.output_size((image.shape[2], image.shape[3]))
        numbers = self.follows[0].said(size) if self.guide is None else self.guide(image)
        number = at_size(numbers, size).argmax(1, keepdim=True)
        regions = torch.arange(self.regions, device=image.device).view(1, -1, 1, 1)
        return size, (number == regions).to(image.dtype).flatten(2)

    def move_bias(self, scale: Scale, shift: Scale) -> None:
        """Have the bias times `scale` plus `shift` from now on."""
        self.bias = (self.bias.double() * scale + shift).to(self.bias.dtype)


class TemplatesForm(RegionForm):
    """Regions mix templates that all images share: one convolution by all templates."""

    weight: Tensor

    def __init__(self, layer: DRConv2d, generator: Templates) -> None:
        super().__init__(layer)
        groups = self.geometry.groups
        self.routing = generator.routing
        self.terms, outputs = generator.templates.shape[:2]
        self.pointwise = self.geometry.pointwise and groups == 1
        weight = generator.templates.detach() * (2 / self.terms)
        if self.pointwise:  # mixing the inputs lets the product sum over the templates too
            weight = weight.flatten(2).transpose(0, 1).flatten(1).unsqueeze(2)
        else:
            weight = weight.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 2)
        self.places = (groups, self.terms, outputs // groups)
        self.register_buffer("weight", weight.contiguous())

    def scale_outputs(self, scale: Scale, shift: Scale) -> None:
        """Have every output channel times `scale` plus `shift` from now on."""
        self.move_bias(scale, shift)
        if not self.pointwise:
            groups, terms, outputs = self.places
            scale = scale.view(groups, 1, outputs).expand(groups, terms, outputs).flatten()
        by_output = scale.view(-1, *[1] * (self.weight.ndim - 1))
        self.weight = (self.weight.double() * by_output).to(self.weight.dtype)

    def forward(
        self, image: Float[Tensor, "batch in height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """As the layer's."""
        size, chosen = self.chosen(image)
        share = self.routing(image.mean((2, 3))).sigmoid().unflatten(1, (-1, self.terms))
        share = share.transpose(1, 2) @ chosen  # of each template at each pixel
        if self.pointwise:
            mixed = image.flatten(2).unsqueeze(1) * share.unsqueeze(2)
            out = functional.conv1d(mixed.flatten(1, 2), self.weight, self.bias)
            return out.unflatten(2, size)
        answers = functional.conv2d(
            image,
            self.weight,
            stride=self.geometry.stride,
            padding=self.geometry.padding,
            groups=self.geometry.groups,
        )
        answers = answers.flatten(2).unflatten(1, self.places) * share[:, None, :, None]
        return answers.sum(2).flatten(1, 2).unflatten(2, size) + self.bias.view(-1, 1, 1)


class PooledForm(RegionForm):
    """Regions have tables of their own: a sample's filters are made, then every tap in turn."""

    tables: Tensor

    def __init__(self, layer: DRConv2d, generator: Pooled) -> None:
        super().__init__(layer)
        self.hidden = generator.hidden
        self.kernel = generator.kernel
        self.outputs, self.inputs = generator.tables.shape[2:4]
        self.register_buffer("tables", generator.tables.detach().flatten(2))

    def scale_outputs(self, scale: Scale, shift: Scale) -> None:
        """Have every output channel times `scale` plus `shift` from now on."""
        self.move_bias(scale, shift)
        by_weight = scale.repeat_interleave(self.inputs)
        self.tables = (self.tables.double() * by_weight).to(self.tables.dtype)

    def forward(
        self, image: Float[Tensor, "batch in height width"]
    ) -> Float[Tensor, "batch out h w"]:
        """As the layer's."""
        size, chosen = self.chosen(image)
        sums = self.bias.view(-1, 1)
        for of_tap, seen in zip(self._filters(image), self._seen(image), strict=True):
            if self.inputs == self.outputs // self.geometry.groups == 1:
                sums = sums + (of_tap.flatten(1, 2).squeeze(3) @ chosen) * seen
                continue
            seen = seen.unflatten(1, (self.geometry.groups, self.inputs)).unsqueeze(2)
            masked = (seen * chosen[:, None, :, None]).flatten(2, 3)
            sums = sums + (of_tap.flatten(3) @ masked).flatten(1, 2)
        return sums.unflatten(2, size)

    def _filters(
        self, image: Tensor
    ) -> tuple[Float[Tensor, "batch groups out_of_group m in_of_group"], ...]:
        """Each sample's filters, a tensor for each tap."""
        groups, regions = self.geometry.groups, self.regions
        pooled = functional.adaptive_avg_pool2d(image, self.kernel)
        share = self.hidden(pooled).sigmoid().flatten(2).unflatten(1, (regions, regions))
        terms = functional.pad(share, (0, 0, 1, 0), value=1.0)  # a region's own table counts whole
        bank = terms.permute(1, 0, 3, 2).flatten(1, 2) @ self.tables
        bank = bank.unflatten(2, (groups, self.outputs // groups, self.inputs))
        bank = bank.unflatten(1, (-1, self.geometry.taps))
        return bank.permute(2, 1, 3, 4, 0, 5).unbind()

    def _seen(self, image: Tensor) -> list[Float[Tensor, "batch in pixels"]]:
        """What each tap meets at every pixel of the output."""
        (high, wide), (down, right) = self.geometry.kernel, self.geometry.stride
        height, width = self.geometry.output_size((image.shape[2], image.shape[3]))
        top, left = self.geometry.padding
        padded = functional.pad(image, (left, left, top, top))
        across = down * (height - 1) + 1, right * (width - 1) + 1
        return [
            padded[:, :, y : y + across[0] : down, x : x + across[1] : right].flatten(2)
            for y in range(high)
            for x in range(wide)
        ]
