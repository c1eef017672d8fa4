"""A network that is only evaluated: its own embeddings, with nothing left to normalise."""

import pytest
import torch

from tests.trainer.export.networks import as_if_trained
from trainer.backbones import build
from trainer.forwards import channels_last, inference
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d


@pytest.mark.parametrize(
    ("name", "left"),
    # What stays: iResNet's blocks begin with one, and its last map has one before the linear layer.
    [("facenet_small", 0), ("mobilefacenet", 0), ("vargfacenet", 0), ("iresnet18", 9)],
)
def test_embeddings_are_those_of_the_network_with_batch_norm(name, left):
    torch.manual_seed(0)
    network = as_if_trained(build(name, embedding_dim=8, image_size=32)).eval()
    image = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = network.double()(image.double())
        stock = network.float()(channels_last(image))
        got = inference(network)(image)
    # float32's own rule: as near to float64 as the network that was not folded, or nearly.
    allowed = 4 * (stock - expected).abs().max() + 1e-6 * expected.abs().max()
    assert (got - expected).abs().max() <= allowed
    norms = [part for part in network.modules() if isinstance(part, BatchNorm1d | BatchNorm2d)]
    assert len(norms) == left
    assert not any(parameter.requires_grad for parameter in network.parameters())
