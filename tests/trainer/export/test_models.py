"""Every kind of network becomes an ONNX file that onnxruntime runs as torch runs the network.

One network of each builder in the table, with fewer blocks where it may have fewer, and with small
faces: operations and wiring are those of all sizes. All rows at full size: bench_export.py.
"""

from functools import partial
from pathlib import Path

import onnx
import pytest
from torch import nn

from tests.trainer.backbones.shallow import BUILDERS, shallow
from tests.trainer.export.networks import as_if_trained
from trainer.backbones.table import BACKBONES
from trainer.export.graph import to_onnx
from trainer.export.images import noise
from trainer.export.parity import Session, compare
from trainer.export.prepare import prepare
from trainer.layers.batch_norm import BatchNorm2d
from trainer.layers.conv import conv_norm
from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.generators import GeneratorName
from trainer.layers.tvconv import TVConv2d

SIDE = 32
LIMIT = 1e-4  # in cosine distance; rounding alone is near 1e-12


def expect_parity(network: nn.Module, folder: Path) -> None:
    model = to_onnx(prepare(network), image_size=(SIDE, SIDE))
    onnx.checker.check_model(model, full_check=True)
    file = folder / "network.onnx"
    onnx.save(model, file)
    found = compare(network, Session(file, threads=1), noise(6, (SIDE, SIDE)))  # 1, 3 and 2
    assert (found.images, found.worst < LIMIT) == (6, True)


def test_every_builder_of_the_table_is_here():
    assert {row.builder for row in BACKBONES.values()} == {
        f"trainer.backbones.{name}" for name in BUILDERS
    }


@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_gives_the_same_embeddings_through_onnxruntime(seeded, tmp_path: Path, name):
    expect_parity(as_if_trained(shallow(name, side=SIDE)), tmp_path)


def regions(generator: GeneratorName) -> nn.Module:
    """Two layers of which the second follows the first one's guide, at another size."""
    first = DRConv2d(8, 6, 1, regions=3, generator=generator)
    assert first.guide is not None
    second = DRConv2d(
        6,
        6,
        (1, 3),
        stride=2,
        padding=(0, 1),
        groups=6,
        regions=3,
        generator=generator,
        guide=first.guide,
    )
    return nn.Sequential(first, nn.PReLU(6), second, BatchNorm2d(6))


def positions() -> nn.Module:
    """A layer for each of its forms."""
    return nn.Sequential(TVConv2d(8, stride=2, map_size=(8, 8)), TVConv2d(8, map_size=(8, 8)))


@pytest.mark.parametrize(
    ("layers", "channels"),
    [
        (partial(regions, "templates"), 6),
        (partial(regions, "pooled"), 6),
        (positions, 8),
    ],
    ids=["drconv of the released code", "drconv of the paper", "tvconv"],
)
def test_layers_of_other_products_give_the_same_through_onnxruntime(
    seeded, tmp_path: Path, layers, channels
):
    network = nn.Sequential(
        conv_norm(3, 8, 3, stride=2, padding=1),
        layers(),
        nn.Flatten(),
        nn.Linear(channels * 8 * 8, 16),
    )
    expect_parity(as_if_trained(network), tmp_path)
