"""The layer: its product and gradients through the weight block, its numbers, its other forms."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from sharded_fc.native_build import SWITCH
from tests.trainer.layers.tvconv.cases import unfolded
from trainer.layers.tvconv import FoldedTVConv2d, TVConv2d, fold_tvconv


def make(*, stride: int = 1, kernel_size: int = 3, **more: int) -> TVConv2d:
    """A layer for images of 9 x 8, with weights and affinity maps of no symmetry."""
    torch.manual_seed(1)
    size = (math.ceil(9 / stride), math.ceil(8 / stride))
    layer = TVConv2d(6, kernel_size, stride=stride, map_size=size, **more)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer


def images(number: int = 4) -> torch.Tensor:
    return torch.randn(number, 6, 9, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("switch", ["0", "1"], ids=["plain", "compiled"])
@pytest.mark.parametrize(
    "layer",
    [make(), make(stride=2), make(kernel_size=5, layers=0), make(stride=2, hidden=5, layers=2)],
    ids=["3 x 3", "stride 2", "5 x 5", "a deep block"],
)
def test_output_and_every_gradient_equal_the_unfolded_form_in_float64(monkeypatch, switch, layer):
    monkeypatch.setenv(SWITCH, switch)
    layer, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
    image, exact_image = images().requires_grad_(), images().double().requires_grad_()
    output = layer(image)
    expected = unfolded(exact_image, exact.weight_block(), stride=layer.stride)
    # float32 through a few layers; each figure is compared at its own size
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    output.square().sum().backward()
    expected.square().sum().backward()
    pairs = [(image, exact_image), *zip(layer.parameters(), exact.parameters(), strict=True)]
    for found, true in pairs:
        assert found.grad is not None
        assert true.grad is not None
        size = float(true.grad.abs().max())
        torch.testing.assert_close(found.grad.double(), true.grad, rtol=1e-3, atol=1e-5 * size)


# The released MobileNetV2 at 96 x 96: (expansion, channels at width 1, repeats, stride, map side).
STAGES = (
    (1, 16, 1, 1, 96),
    (6, 24, 2, 2, 48),
    (6, 32, 3, 2, 24),
    (6, 64, 4, 2, 12),
    (6, 96, 3, 1, 12),
    (6, 160, 3, 2, 6),
    (6, 320, 1, 1, 6),
)


def to_eights(channels: float) -> int:
    """The network's rounding of widths: to multiples of 8, by no more than a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def depthwise_of_mobilenet(width: float, **block: int) -> list[TVConv2d]:
    layers, inputs = [], to_eights(32 * width)
    with torch.device("meta"):
        for expansion, channels, repeats, _, side in STAGES:
            for _ in range(repeats):
                layers.append(TVConv2d(inputs * expansion, map_size=(side, side), **block))
                inputs = to_eights(channels * width)
    return layers


@pytest.mark.parametrize(
    ("width", "parameters", "multiply_adds", "kept"),
    [
        (0.1, 16_054_272, 4.239e9, 4_084_992),
        (0.2, 19_289_088, 4.516e9, 4_567_104),
        (0.3, 23_311_872, 5.499e9, 6_272_640),
        (0.5, 29_283_840, 6.628e9, 8_232_192),
        (1.0, 47_531_520, 10.65e9, 15_220_224),
    ],
)
def test_counts_in_mobilenet_are_those_of_the_released_code(width, parameters, multiply_adds, kept):
    layers = depthwise_of_mobilenet(width, hidden=64, layers=3)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == parameters
    total = sum(layer.weight_block.multiply_adds for layer in layers)
    assert total == pytest.approx(multiply_adds, rel=5e-4)  # known to four digits
    # One weight, one multiply-add of an image.
    assert sum(layer.multiply_adds for layer in layers) == kept


def test_the_small_block_costs_what_the_paper_counts():
    layers = depthwise_of_mobilenet(0.1)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == 2_563_776


def test_under_autocast_weights_stay_float32_to_the_bit_and_images_are_halved():
    layer, image = make(), images()
    weight = layer.weight().detach().clone()
    layer.forget_weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(image)
        assert torch.equal(layer.weight(), weight)
    assert output.dtype == torch.bfloat16
    expected = unfolded(image.bfloat16().double(), weight.double(), stride=1)
    # One rounding to bfloat16 of float32 sums.
    torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=1e-5)


def test_a_folded_layer_gives_the_same_bits_and_keeps_weights_alone():
    layer = make(stride=2).eval()
    network = fold_tvconv(nn.Sequential(copy.deepcopy(layer), nn.Identity()))
    assert isinstance(network, nn.Sequential)
    folded = network[0]
    assert isinstance(folded, FoldedTVConv2d)
    assert list(folded.state_dict()) == ["weight"]
    assert not list(folded.parameters())
    assert torch.equal(network(images()), layer(images()))
    assert isinstance(fold_tvconv(layer), FoldedTVConv2d)


def test_an_exported_layer_gives_the_same_at_any_batch_size():
    folded = fold_tvconv(make(stride=2).eval())
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(folded, (images(),), dynamic_shapes=({0: batch},))
    names = {str(node.target) for node in exported.graph.nodes}
    assert not any("unfold" in name or "im2col" in name for name in names)
    for number in (1, 7):
        assert torch.equal(exported.module()(images(number)), folded(images(number)))


COMPILED = """
import torch
from tests.trainer.layers.tvconv.test_layer import images, make

layer, other = make(stride=2), make(stride=2)
layer(images()).square().sum().backward()
output = torch.compile(other, backend="aot_eager", fullgraph=True)(images())
assert torch.equal(output, layer(images()))
output.square().sum().backward()
for ours, theirs in zip(layer.parameters(), other.parameters(), strict=True):
    # Sums over images in another order, at the size of the largest.
    size = float(ours.grad.abs().max())
    torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-4, atol=1e-5 * size)
"""


def test_a_compiled_layer_is_one_graph_with_the_same_output_and_gradients():
    # A process of its own: shape checks must not be in the way of the compiler's.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_layer_built_from_numbers_that_make_no_sense_is_refused():
    with pytest.raises(ValueError, match="kernel of 4 has no middle"):
        TVConv2d(8, 4, map_size=(7, 7))
    with pytest.raises(ValueError, match="at least 1"):
        TVConv2d(8, map_size=(7, 0))
    with pytest.raises(ValueError, match="layers at least 0"):
        TVConv2d(8, map_size=(7, 7), layers=-1)


def test_images_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match="9x8 output positions and the image has 8x8"):
        make()(images()[:, :, :8])


def test_a_layer_says_what_it_is():
    assert "TVConv2d(\n  6, kernel_size=3, stride=2, map_size=5x4" in repr(make(stride=2))
