"""Parameters and multiply-adds are the published ones, for every row of the table."""

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

from trainer.backbones import build
from trainer.backbones.count import count
from trainer.backbones.table import BACKBONES
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d

NORMS = (BatchNorm1d, BatchNorm2d)


@cache
def made(name: str) -> nn.Module:
    """The network without weights: counting needs none, and the largest take seconds to draw."""
    with torch.device("meta"):
        return build(name)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_states_what_the_network_has(name):
    row = BACKBONES[name]
    total = count(made(name), row.image_size)["total"]
    assert (total.parameters, total.multiply_adds) == (row.parameters, row.multiply_adds)


def test_published_counts_are_the_table_s():
    # MobileFaceNet's 0.99 million and 221 million, VarGFaceNet's 5.2 million; arcface_torch's
    # mobilefacenet-0.45G and its large form; TVConv's MobileNetV2 at 96 pixels: all counted from
    # the papers' tables and codes, affine parts and slopes included.
    published = {
        "mobilefacenet": (1_003_136, 220_965_376),
        "mobilefacenet_512": (1_200_512, 221_161_984),
        "mbf": (2_059_520, 437_520_896),
        "mbf_large": (6_314_880, 1_816_482_816),
        "vargfacenet": (5_198_292, 512_593_440),
        "vargfacenet_112x96": (5_140_948, 439_512_096),
        "mobilenetv2_010": (324_672, 18_023_680),
        "mobilenetv2_050": (827_968, 66_260_224),
        "mobilenetv2_100": (2_241_280, 211_451_392),
    }
    for name, (parameters, multiply_adds) in published.items():
        row = BACKBONES[name]
        assert (row.parameters, row.multiply_adds) == (parameters, multiply_adds), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shufflenetv2_050", (1_366_792, 40_476_448)),
        ("shufflenetv2_100", (2_278_604, 144_907_992)),  # torchvision's published count
        ("shufflenetv2_100_keep_left", (2_279_760, 145_814_296)),
    ],
)
def test_shufflenet_is_the_imagenet_one_but_for_its_end(name, expected):
    """Without the stem's stride, 112 pixels are cut as 224 are; theirs ends in 1,000 classes."""
    parts = count(made(name), (112, 112))
    trunk = [cost for part, cost in parts.items() if part not in {"embedding", "total"}]
    classes = 1000
    assert sum(cost.parameters for cost in trunk) + 1025 * classes == expected[0]
    assert sum(cost.multiply_adds for cost in trunk) + 1024 * classes == expected[1]


@pytest.mark.parametrize(
    ("name", "blocks", "head", "width", "last", "expected"),
    [
        # Halving and normal blocks in their order.
        ("vargnet_v1_100", "HHHNNHN", False, 32, 1024, (5_536_008, 620_195_840)),
        ("vargnet_v2_050", "HNNHNNNNNNHNNN", True, 16, 1024, (1_907_896, 130_829_312)),
        ("vargnet_v2_100", "HNNHNNNNNNHNNN", True, 32, 1024, (3_611_528, 360_183_808)),
    ],
)
def test_vargnet_is_the_imagenet_one_but_for_its_end(name, blocks, head, width, last, expected):
    """Without the stem's stride, 112 pixels are cut as 224 are; theirs ends in 1,000 classes."""

    def separable(inputs: int, outputs: int, factor: int, side: int) -> None:
        nonlocal parameters, multiply_adds
        wide = inputs * factor
        weights = 9 * 8 * wide + wide * outputs
        parameters += weights + 2 * wide + 2 * outputs
        multiply_adds += weights * side**2

    side, classes = 112, 1000
    parameters, multiply_adds = 27 * width + 2 * width, 27 * width * side**2
    if head:
        side //= 2
        for _ in range(3):
            separable(width, width, 1, side)
    for block in blocks:
        if block == "H":
            side //= 2
            for _ in range(3):
                separable(width, 2 * width, 2, side)
            width *= 2
            separable(width, width, 2, side)
        else:
            for _ in range(2):
                separable(width, width, 2, side)
    parameters += width * last + 2 * last
    multiply_adds += width * last * side**2
    assert (parameters + 1025 * classes, multiply_adds + 1024 * classes) == expected
    parts = count(made(name), (112, 112))
    trunk = [cost for part, cost in parts.items() if part not in {"embedding", "total"}]
    assert sum(cost.parameters for cost in trunk) == parameters
    assert sum(cost.multiply_adds for cost in trunk) == multiply_adds


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("iresnet18", 2.6),
        ("iresnet50", 6.3),
        ("iresnet100", 12.1),
        ("iresnet200", 23.5),
        ("vit_t", 1.5),
        ("vit_s", 5.7),
        ("vit_b", 11.4),
        ("vit_l", 25.3),
    ],
)
def test_multiply_adds_are_those_of_arcface_torch_s_table(name, giga):
    # One decimal there, and its counter has a multiply-add for each value that BatchNorm and PReLU
    # see too: 0.3 % of iResNet-200.
    assert BACKBONES[name].multiply_adds / 1e9 == pytest.approx(giga, abs=0.05, rel=4e-3)


@pytest.mark.parametrize(
    ("name", "repeats"), [("iresnet50", (3, 4, 14, 3)), ("iresnet100", (3, 13, 30, 3))]
)
def test_iresnet_has_the_weights_that_a_count_by_hand_gives(name, repeats):
    def block(inputs, outputs):
        return 9 * inputs * outputs + 9 * outputs * outputs + 2 * inputs + 5 * outputs

    weights, inputs = 27 * 64 + 3 * 64, 64
    for outputs, repeat in zip((64, 128, 256, 512), repeats, strict=True):
        shortcut = inputs * outputs + 2 * outputs
        weights += block(inputs, outputs) + shortcut + (repeat - 1) * block(outputs, outputs)
        inputs = outputs
    # The last BatchNorm learns no scale.
    weights += 2 * 512 + (512 * 49 + 1) * 512 + 512
    assert BACKBONES[name].parameters == weights


def test_the_two_splits_of_shufflenet_differ_in_one_unit_only():
    halves, keep = (
        dict(made(name).named_parameters())
        for name in ("shufflenetv2_100", "shufflenetv2_100_keep_left")
    )
    other = {name for name, weight in halves.items() if keep[name].shape != weight.shape}
    assert other
    assert all(name.startswith("stage2.0.") for name in other)


def test_every_row_says_what_its_embeddings_come_out_of():
    for name, row in BACKBONES.items():
        layers = [layer for layer in made(name).modules() if isinstance(layer, NORMS)]
        assert row.ending.startswith(("mean, ", "linear, ", "1x1 convolution, ")), name
        assert "BatchNorm" in row.ending, name
        assert layers[-1].num_features == row.embedding_dim


def test_vargfacenet_parts_cost_what_the_released_code_does():
    parts = count(made("vargfacenet"), (112, 112))
    assert {name: cost.parameters for name, cost in parts.items() if name != "total"} == {
        "stage1": 16_180,
        "stage2": 169_600,
        "stage3": 1_176_000,
        "stage4": 2_312_800,
        "embedding": 1_523_712,
    }
    assert {name: cost.multiply_adds for name, cost in parts.items() if name != "total"} == {
        "stage1": 55_696_160,
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

    network = copy.deepcopy(made("vargfacenet")).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    network(torch.empty(1, 3, 112, 112, device="meta"))
    assert flops == 1_022_864_152
