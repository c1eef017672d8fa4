"""The networks learn with all their parameters, and fit the sizes they are asked for."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from trainer.backbones import build
from trainer.backbones.table import row
from trainer.errors import RunError

KINDS = (
    "mobilefacenet",
    "mbf",
    "vargfacenet",
    "vargnet_v1_100",
    "vargnet_v2_050",
    "mobilenetv2_010",
    "shufflenetv2_050",
    "shufflenetv2_100_keep_left",
    "iresnet18",
    "vit_t",
    "facenet_small",
)
"""One of each kind of network; the others have the same layers, more or wider."""


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (112, 96)])
def test_another_image_size_gives_one_embedding_a_face(name, size):
    network = build(name, embedding_dim=32, image_size=size).eval()
    assert network(torch.zeros(2, 3, *size)).shape == (2, 32)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    network = build(name, embedding_dim=16, image_size=32)
    embedding = network(torch.rand(4, 3, 32, 32) * 2 - 1)
    embedding.square().sum(1).sub(torch.arange(4)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", KINDS)
def test_channels_last_gives_the_same_embeddings(name):
    torch.manual_seed(0)
    network = build(name, image_size=32).double().eval()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    expected = network(image)
    other = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    got = other(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected)  # float64 defaults: another order of sums


def test_first_weights_keep_the_scale_of_their_input_in_grouped_layers_too():
    torch.manual_seed(0)
    for layer in build("vargfacenet").modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            expected = math.sqrt(2 / (1 + 0.25**2) / fan)
            # A sample deviation of n values is off by expected / sqrt(2n); five of those.
            tolerance = 5 * expected / math.sqrt(2 * layer.weight.numel())
            assert abs(float(layer.weight.detach().std()) - expected) < tolerance


# What the released codes draw: a fixed deviation, or He's by k*k*outputs, or by k*k*inputs. Where
# there is none, He's by what one output reads.
@pytest.mark.parametrize(
    ("name", "layer", "deviation"),
    [
        ("iresnet18", "stage2.0.body.1.0", 0.1),
        ("iresnet18", "stage2.0.shortcut.0", 0.1),
        ("mbf", "stage2.0.body.0.0", math.sqrt(2 / 128)),
        ("mbf", "stage2.0.body.1.0", math.sqrt(2 / (9 * 128))),
        ("mbf", "embedding.3", math.sqrt(2 / 512)),
        ("mobilenetv2_100", "stage2.0.body.1.0", math.sqrt(2 / (9 * 144))),
        ("mobilenetv2_100", "embedding.layers.3", 0.01),
        ("vargnet_v2_050", "stage3.1.body.0.0.0", math.sqrt(2 / (9 * 8))),
        ("shufflenetv2_050", "stem.0.0", 0.01),
        ("shufflenetv2_050", "stage4.1.body.0.0", math.sqrt(1 / 96)),
        ("vit_t", "blocks.0.attention.qkv", 0.02),
    ],
)
def test_first_weights_are_those_of_the_released_codes(name, layer, deviation):
    torch.manual_seed(0)
    weight = build(name, image_size=32).get_submodule(layer).get_parameter("weight").detach()
    # A sample deviation of n values is off by deviation / sqrt(2n); five of those.
    assert abs(float(weight.std()) - deviation) < 5 * deviation / math.sqrt(2 * weight.numel())
    assert abs(float(weight.mean())) < 5 * deviation / math.sqrt(weight.numel())


def test_first_weights_follow_torch_s_seed():
    torch.manual_seed(3)
    one = build("mobilefacenet", image_size=32).state_dict()
    torch.manual_seed(3)
    two = build("mobilefacenet", image_size=32).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        RunError, match=r"'mobilenet'; choose one of mobilefacenet, mobilefacenet_512"
    ):
        build("mobilenet")


@pytest.mark.parametrize("name", KINDS)
def test_sizes_that_are_no_multiples_of_sixteen_fit(name):
    embedding = build(name, image_size=(56, 44)).eval()(torch.zeros(1, 3, 56, 44))
    assert embedding.shape == (1, row(name).embedding_dim)


@pytest.mark.parametrize("size", [0, 15, (112, 8), -16])
def test_a_size_that_cannot_be_halved_four_times_is_refused(size):
    with pytest.raises(RunError, match="use at least 16"):
        build("mobilefacenet", image_size=size)


@pytest.mark.parametrize("name", [n for n in KINDS if not row(n).ending.startswith("mean")])
def test_images_of_another_size_than_the_network_s_are_refused(name):
    with pytest.raises(ValueError, match=r"(last map of 2x2|3x3 patches) and got (3x3|5x5)"):
        build(name, image_size=32).eval()(torch.zeros(1, 3, 48, 48))


def test_the_table_needs_no_torch():
    code = "import sys, trainer.backbones.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
