"""TVConv in operations that ONNX has: its weights as constants, without what they came from.

No product of ONNX reads another weight at each position. On maps of a few positions a matrix a
channel does, from all positions of the input to all of the output: more products, at a far higher
rate. Larger maps take a multiplication and an addition of the whole map for each tap.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers.tvconv import TVConv2d
from trainer.layers.tvconv.taps import geometry, out_size

MOST_POSITIONS = 64
"""Of a map that is worth matrices: at 7x7 four to five times as fast, at 14x14 slower."""

Scale = Float[Tensor, " channels"]
Weight = Float[Tensor, "height width taps channels"]
Image = Float[Tensor, "batch channels height width"]
Output = Float[Tensor, "batch channels out_height out_width"]


def position_form(layer: TVConv2d) -> nn.Module:
    """The layer's exportable form, with the weights it has now."""
    with torch.no_grad():
        weight = layer.weight_block().detach()
    small = layer.map_size[0] * layer.map_size[1] <= MOST_POSITIONS
    if layer.stride == 1 and small:
        return MatrixForm(layer, weight)
    return TapsForm(layer, weight)


class PositionForm(nn.Module):
    """What both forms share: the size they were built for, and the bias."""

    bias: Tensor

    def __init__(self, layer: TVConv2d, weight: Weight) -> None:
        super().__init__()
        self.stride = layer.stride
        self.map_size = layer.map_size
        self.register_buffer("bias", weight.new_zeros(layer.channels, 1, 1))

    def move_bias(self, scale: Scale, shift: Scale) -> None:
        """Have the bias times `scale` plus `shift` from now on."""
        moved = self.bias.double() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        self.bias = moved.to(self.bias.dtype)

    def expect(self, image: Tensor) -> None:
        """Refuse images of a size that the weights are not of."""
        found = out_size((image.shape[2], image.shape[3]), self.stride)
        if found != self.map_size:
            built, got = ("x".join(map(str, size)) for size in (self.map_size, found))
            raise ValueError(f"the weights are of {built} positions and the image has {got}")


class MatrixForm(PositionForm):
    """A matrix for each channel."""

    matrix: Tensor

    def __init__(self, layer: TVConv2d, weight: Weight) -> None:
        super().__init__(layer, weight)
        positions = self.map_size[0] * self.map_size[1]
        taps = geometry(self.map_size, layer.kernel_size, 1).forward
        row, source = torch.from_numpy(taps.row), torch.from_numpy(taps.source)
        matrix = weight.new_zeros(positions, positions, layer.channels)
        matrix[source, row // layer.kernel_size**2] = weight.flatten(0, 2)[row]
        self.register_buffer("matrix", matrix.permute(2, 0, 1).contiguous())

    def scale_outputs(self, scale: Scale, shift: Scale) -> None:
        """Have every channel times `scale` plus `shift` from now on."""
        self.move_bias(scale, shift)
        self.matrix = (self.matrix.double() * scale.view(-1, 1, 1)).to(self.matrix.dtype)

    def forward(self, image: Image) -> Output:
        """As the layer's."""
        self.expect(image)
        out = image.flatten(2).transpose(0, 1) @ self.matrix
        return out.transpose(0, 1).unflatten(2, self.map_size) + self.bias


class TapsForm(PositionForm):
    """The weights of each tap, at all positions."""

    def __init__(self, layer: TVConv2d, weight: Weight) -> None:
        super().__init__(layer, weight)
        self.kernel = layer.kernel_size
        self.weights = nn.ParameterList(
            nn.Parameter(of_tap.contiguous(), requires_grad=False)
            for of_tap in weight.permute(2, 3, 0, 1)
        )

    def scale_outputs(self, scale: Scale, shift: Scale) -> None:
        """Have every channel times `scale` plus `shift` from now on."""
        self.move_bias(scale, shift)
        for weight in self.weights:
            weight.data = (weight.double() * scale.view(-1, 1, 1)).to(weight.dtype)

    def forward(self, image: Image) -> Output:
        """As the layer's."""
        self.expect(image)
        (height, width), stride = self.map_size, self.stride
        padded = functional.pad(image, (self.kernel // 2,) * 4)
        sums: Tensor = self.bias
        for tap, weight in enumerate(self.weights):
            y, x = divmod(tap, self.kernel)
            down, across = y + stride * (height - 1) + 1, x + stride * (width - 1) + 1
            sums = sums + padded[:, :, y:down:stride, x:across:stride] * weight
        return sums
