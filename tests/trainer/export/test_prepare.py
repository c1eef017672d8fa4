"""What is exported computes what the network does; in float64, so that no rounding hides a fault.

Sums are of at most a few hundred products of numbers near one: 1e-12 is a thousand times their
rounding, and a millionth of what a wrong weight would change.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.export.networks import as_if_trained, tiny
from trainer.backbones import build
from trainer.export import positions
from trainer.export.positions import MatrixForm, TapsForm
from trainer.export.prepare import prepare
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.drconv import DRConv2d, Guide
from trainer.layers.tvconv import TVConv2d

DEEP = torch.float64
TOLERANCE = {"rtol": 0, "atol": 1e-12}


def drawn(*layers: nn.Module) -> nn.Sequential:
    """Layers in a row with weights that differ, regions and positions among them."""
    network = as_if_trained(nn.Sequential(*layers)).double()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.5)
    return network


def compare(network: nn.Module, image: Tensor) -> nn.Module:
    """The prepared network, once it gave what the network gives."""
    ready = prepare(network, dtype=DEEP).network
    with torch.no_grad():
        torch.testing.assert_close(ready(image), network(image), **TOLERANCE)
    return ready


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, BatchNorm1d | BatchNorm2d) for part in network.modules())


def test_batch_norm_after_convolutions_and_linear_layers_is_folded(seeded):
    network = tiny().double()
    assert norms(compare(network, torch.randn(3, 3, 16, 16, dtype=DEEP))) == 0


def test_the_network_that_is_exported_stays_as_it_is(seeded):
    network = tiny()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare(network, unit=True, dtype=torch.float16)
    assert norms(network) == 4
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_batch_norm_before_a_padded_convolution_stays(seeded):
    # Its shift would have to be added to the padding too.
    network = drawn(BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), BatchNorm2d(4))
    assert norms(compare(network, torch.randn(2, 3, 5, 5, dtype=DEEP))) == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("generator", ["templates", "pooled"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "padding", "groups"),
    [
        (6, 8, 1, 1, 0, 1),
        (6, 8, 3, 2, 1, 1),
        (6, 8, (3, 1), 1, (1, 0), 2),
        (6, 6, 3, 1, 1, 6),
        (6, 12, 3, (2, 1), 1, 6),
        (4, 6, 1, 2, 0, 2),
    ],
)
def test_drconv_is_exported_as_it_computes(
    seeded, inputs, outputs, kernel, stride, padding, groups, generator, bias
):
    layer = DRConv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        regions=3,
        generator=generator,
        bias=bias,
    )
    network = drawn(layer, BatchNorm2d(outputs))
    assert norms(compare(network, torch.randn(3, inputs, 7, 9, dtype=DEEP))) == 0


def test_layers_that_follow_a_guide_follow_it_when_exported(seeded):
    first = DRConv2d(4, 6, 1, regions=3)
    assert isinstance(first.guide, Guide)
    second = DRConv2d(6, 5, 1, stride=2, regions=3, guide=first.guide)
    ready = compare(drawn(first, second), torch.randn(3, 4, 6, 8, dtype=DEEP))
    assert sum(isinstance(part, Guide) for part in ready.modules()) == 1


def test_one_region_of_equal_numbers_is_the_first(seeded):
    layer = DRConv2d(4, 5, 1, regions=4)
    network = drawn(layer)
    assert layer.guide is not None
    layer.guide.conv.weight.data.zero_()
    compare(network, torch.randn(2, 4, 3, 3, dtype=DEEP))


@pytest.mark.parametrize("most", [0, positions.MOST_POSITIONS])
@pytest.mark.parametrize(
    ("kernel", "stride", "size", "map_size"),
    [
        (3, 1, (7, 9), (7, 9)),
        (3, 2, (7, 9), (4, 5)),
        (5, 1, (4, 3), (4, 3)),
        (5, 2, (8, 6), (4, 3)),
    ],
)
def test_tvconv_is_exported_with_its_weights_folded(
    seeded, monkeypatch, kernel, stride, size: Sequence[int], map_size, most
):
    monkeypatch.setattr(positions, "MOST_POSITIONS", most)
    layer = TVConv2d(5, kernel, stride=stride, map_size=map_size)
    ready = compare(drawn(layer, BatchNorm2d(5)), torch.randn(3, 5, *size, dtype=DEEP))
    assert not any("affinity" in name for name, _ in ready.named_parameters())
    assert norms(ready) == 0
    assert isinstance(ready.get_submodule("0"), MatrixForm if most and stride == 1 else TapsForm)


def test_an_exported_tvconv_refuses_other_sizes_of_images(seeded):
    ready = prepare(drawn(TVConv2d(5, map_size=(4, 4))), dtype=DEEP).network
    with pytest.raises(ValueError, match="4x4 positions and the image has 5x4"):
        ready(torch.zeros(1, 5, 5, 4, dtype=DEEP))


@pytest.mark.parametrize("name", ["vargfacenet", "shufflenetv2_100_keep_left", "iresnet18"])
def test_whole_networks_are_folded_without_a_change(seeded, name):
    network = as_if_trained(build(name, image_size=16, embedding_dim=4)).double()
    image = torch.rand(2, 3, 16, 16, dtype=DEEP) * 2 - 1
    ready = prepare(network, dtype=DEEP).network
    with torch.no_grad():
        # Many layers on: relative to the embedding, with a hundred times the tolerance above.
        torch.testing.assert_close(ready(image), network(image), rtol=1e-10, atol=1e-10)


def test_embeddings_have_length_one_where_asked(seeded):
    image = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        plain, unit = prepare(tiny())(image), prepare(tiny(), unit=True)(image)
    torch.testing.assert_close(unit, plain / plain.norm(dim=1, keepdim=True))
