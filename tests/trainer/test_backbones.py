"""The networks have exactly the published structure, and fit the sizes they are asked for."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from trainer.backbones import build
from trainer.backbones.count import count
from trainer.backbones.table import BACKBONES
from trainer.errors import RunError


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_states_what_the_network_has(name):
    row = BACKBONES[name]
    total = count(build(name), row.image_size)["total"]
    assert (total.parameters, total.multiply_adds) == (row.parameters, row.multiply_adds)


# Computed by hand from the papers' tables, BN affine and PReLU slopes included; the totals agree
# with the published 0.99 million / 221 million (MobileFaceNet) and 5.2 million (VarGFaceNet).
@pytest.mark.parametrize(
    ("name", "size", "embedding_dim", "expected"),
    [
        ("mobilefacenet", (112, 112), 128, (1_003_136, 220_965_376)),
        ("mobilefacenet", (112, 112), 512, (1_200_512, 221_161_984)),
        ("vargfacenet", (112, 112), 512, (5_198_292, 512_593_440)),
        ("vargfacenet", (112, 96), 512, (5_140_948, 439_512_096)),
    ],
)
def test_counts_equal_the_published_ones(name, size, embedding_dim, expected):
    network = build(name, embedding_dim=embedding_dim, image_size=size)
    total = count(network, size)["total"]
    assert (total.parameters, total.multiply_adds) == expected


def test_vargfacenet_parts_cost_what_the_released_code_does():
    parts = count(build("vargfacenet"), (112, 112))
    assert {name: cost.parameters for name, cost in parts.items() if name != "total"} == {
        "head": 16_180,
        "stage2": 169_600,
        "stage3": 1_176_000,
        "stage4": 2_312_800,
        "embedding": 1_523_712,
    }
    assert {name: cost.multiply_adds for name, cost in parts.items() if name != "total"} == {
        "head": 55_696_160,
        "stage2": 123_941_120,
        "stage3": 211_066_880,
        "stage4": 104_645_120,
        "embedding": 17_244_160,
    }


def test_vargfacenet_has_the_paper_s_1022_million_flops_by_its_authors_counter():
    """InsightFace's MXNet counter: 2*inputs - 1 a value without bias, 2*inputs with, floored."""
    flops = 0

    def add(layer, _inputs, output):
        nonlocal flops
        if isinstance(layer, nn.Linear):
            flops += 2 * layer.in_features * layer.out_features
        else:  # the counter ignores groups inside the bracket and divides by them afterwards
            inputs = 2 * layer.in_channels * math.prod(layer.kernel_size)
            flops += (inputs - (layer.bias is None)) * output.numel() // layer.groups

    network = build("vargfacenet").to("meta").eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    network(torch.empty(1, 3, 112, 112, device="meta"))
    assert flops == 1_022_864_152


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 64), (112, 96)])
def test_another_image_size_gives_one_embedding_a_face(name, size):
    network = build(name, embedding_dim=32, image_size=size).eval()
    assert network(torch.zeros(2, 3, *size)).shape == (2, 32)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    network = build(name, embedding_dim=16, image_size=32)
    embedding = network(torch.rand(4, 3, 32, 32) * 2 - 1)
    embedding.square().sum(1).sub(torch.arange(4)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", BACKBONES)
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


def test_first_weights_follow_torch_s_seed():
    torch.manual_seed(3)
    one = build("mobilefacenet", image_size=32).state_dict()
    torch.manual_seed(3)
    two = build("mobilefacenet", image_size=32).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RunError, match=r"'mobilenet'; choose one of mobilefacenet, vargfacenet"):
        build("mobilenet")


@pytest.mark.parametrize("size", [0, 100, (112, 100), -16])
def test_a_size_that_does_not_divide_is_refused(size):
    with pytest.raises(RunError, match="multiples of 16"):
        build("mobilefacenet", image_size=size)


@pytest.mark.parametrize("name", BACKBONES)
def test_images_of_another_size_than_the_network_s_are_refused(name):
    with pytest.raises(ValueError, match="last map of 2x2 and got 3x3"):
        build(name, image_size=32).eval()(torch.zeros(1, 3, 48, 48))


def test_the_table_needs_no_torch():
    code = "import sys, trainer.backbones.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
