"""DRConv2d in place of Conv2d: sizes, guides, generators, autocast, and how regions are used."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.trainer.layers.drconv.dense import dense
from trainer.layers.drconv import DRConv2d, Guide, function, watching
from trainer.layers.drconv.guide import at_size

SHAPES = {
    "pointwise": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 8},
    "oblong": {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1)},
}


def guide_of(layer: DRConv2d) -> Guide:
    assert layer.guide is not None
    return layer.guide


def naive(layer: DRConv2d, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """m convolutions and a selection with the layer's own guide and filters."""
    size = layer.geometry.output_size((image.shape[2], image.shape[3]))
    guide = at_size(guide_of(layer).conv(image), size)
    filters = layer.generator(image)
    return dense(image, guide, filters, layer.geometry, bias=layer.bias, mask=mask)


@pytest.mark.parametrize("generator", ["templates", "pooled"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_layer_has_a_convolutions_sizes_and_the_papers_numbers(shape, generator):
    torch.manual_seed(0)
    layer = DRConv2d(8, 16, **SHAPES[shape], regions=4, generator=generator).double()
    image = torch.randn(2, 8, 9, 7, dtype=torch.float64, requires_grad=True)
    out = layer(image)
    assert out.shape == nn.Conv2d(8, 16, **SHAPES[shape])(image.float()).shape
    expected = naive(layer, image)
    torch.testing.assert_close(out, expected)  # float64's own tolerance
    asked = [image, *layer.parameters()]
    gradient = torch.randn_like(out)
    found = torch.autograd.grad(out, asked, gradient)
    for one, other in zip(found, torch.autograd.grad(expected, asked, gradient), strict=True):
        torch.testing.assert_close(one, other)


def test_a_follower_takes_the_nearest_pixel_of_its_leaders_guide():
    torch.manual_seed(0)
    leader = DRConv2d(4, 8, 1, regions=3)
    follower = DRConv2d(8, 4, 1, regions=3, guide=guide_of(leader))
    assert not any("guide" in name for name, _ in follower.named_parameters())
    network = nn.Sequential(leader, nn.MaxPool2d(2), follower).double()
    image = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with watching(network) as usage:
        network(image).square().sum().backward()
    first, second = usage["0"].last, usage["2"].last
    assert first is not None
    assert second is not None
    assert torch.equal(second, first[:, ::2, ::2])
    assert guide_of(leader).conv.weight.grad is not None
    # A copy has its own guide, and leaves the last numbers behind.
    other = copy.deepcopy(network)
    copies = [layer for layer in other.modules() if isinstance(layer, DRConv2d)]
    assert copies[1]._follows[0] is copies[0].guide
    torch.testing.assert_close(other(image), network(image))


def test_a_follower_before_its_leader_and_unequal_regions_are_refused():
    guide = Guide(4, 3)
    with pytest.raises(ValueError, match="run the layer that owns the guide first"):
        DRConv2d(4, 4, 1, regions=3, guide=guide)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="3 regions for a layer of 8"):
        DRConv2d(4, 4, 1, guide=guide)
    with pytest.raises(ValueError, match="divides both"):
        DRConv2d(4, 6, 1, groups=4)
    with pytest.raises(ValueError, match="use 1 to 256"):
        DRConv2d(4, 4, 1, regions=257)


def test_the_released_first_weights_make_every_region_the_templates_mean():
    torch.manual_seed(0)
    layer = DRConv2d(64, 32, 1)
    templates = layer.generator.templates
    assert templates.abs().max() <= math.sqrt(6 / 64)
    coefficient, table = layer.generator(torch.randn(2, 64, 7, 7))
    # The routing starts with a deviation of 0.01 a weight: logits of about 0.01.
    torch.testing.assert_close(coefficient, torch.full_like(coefficient, 1 / 8), rtol=0.05, atol=0)
    assert table.data_ptr() == templates.data_ptr()


def test_parameters_are_those_of_the_two_papers_generators():
    inputs, outputs, regions = 64, 128, 8
    count = sum(p.numel() for p in DRConv2d(inputs, outputs, 1, bias=False).parameters())
    routing = (inputs + 1) * regions * 8
    assert count == 8 * inputs * outputs + routing + regions * inputs
    pooled = DRConv2d(inputs, outputs, 1, bias=False, generator="pooled")
    hidden = (inputs + 1) * regions**2
    tables = regions * (regions + 1) * inputs * outputs
    assert sum(p.numel() for p in pooled.parameters()) == tables + hidden + regions * inputs


def test_under_autocast_errors_are_not_above_the_naive_codes(compiled):
    torch.manual_seed(0)
    layer = DRConv2d(32, 48, 1)
    image = torch.randn(2, 32, 9, 9)
    with watching(layer) as usage, torch.autocast("cpu", torch.bfloat16):
        out = layer(image)
        with torch.no_grad():
            other = naive(layer, image, mask=usage[""].last)  # a mask forced: choices jump
    exact = naive(copy.deepcopy(layer).double(), image.double(), mask=usage[""].last)
    assert out.dtype == torch.bfloat16
    assert (out - exact).abs().max() <= (other - exact).abs().max()


@pytest.mark.parametrize("generator", ["templates", "pooled"])
@pytest.mark.parametrize("shape", ["pointwise", "strided", "depthwise"])
def test_what_goes_into_a_graph_has_the_same_numbers_and_gradients(monkeypatch, shape, generator):
    torch.manual_seed(0)
    layer = DRConv2d(8, 16, **SHAPES[shape], regions=4, generator=generator).double()
    image = torch.randn(2, 8, 9, 7, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(layer(image))
    asked = [image, *layer.parameters()]
    made = []
    for compiling in (False, True):
        monkeypatch.setattr(function, "in_graph", lambda compiling=compiling: compiling)
        out = layer(image)
        made.append([out, *torch.autograd.grad(out, asked, gradient)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)


COMPILED = """
import torch
from trainer.layers.drconv import DRConv2d

for generator in ("templates", "pooled"):
    torch.manual_seed(0)
    layer = DRConv2d(8, 6, 3, padding=1, groups=2, regions=4, generator=generator).double()
    image = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    made = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        out = run(image)
        asked = [image, *layer.parameters()]
        made.append([out, *torch.autograd.grad(out.square().sum(), asked)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)  # float64
"""


def test_a_compiled_layer_is_one_graph_with_the_same_output_and_gradients():
    # A process of its own: shape checks must not be in the way of the compiler's.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_usage_counts_pixels_and_says_how_even_they_are():
    layer = DRConv2d(4, 4, 1, regions=4)
    with watching(nn.Sequential(layer)) as usage:
        with torch.no_grad():
            guide_of(layer).conv.weight.zero_()
            guide_of(layer).conv.weight[2] = 1
        layer(torch.ones(2, 4, 3, 3))
        assert usage["0"].share().tolist() == [0, 0, 1, 0]
        assert usage["0"].entropy() == 0
        layer(-torch.ones(2, 4, 3, 3))  # zeros but for region 2: ties, to the first
    assert usage["0"].share().tolist() == [0.5, 0, 0.5, 0]
    assert usage["0"].entropy() == pytest.approx(0.5)  # one bit of two
    assert layer.usage is None
    with watching(nn.Sequential(layer)) as usage, pytest.raises(ValueError, match="no mask"):
        usage["0"].share()
