import pytest
import torch

from trainer.backbones import build
from trainer.backbones.count import count


def _conv(inputs, outputs, side, kernel=3):
    """Weights and multiply-adds of one convolution onto a map of this side."""
    weights = kernel * kernel * inputs * outputs
    return weights, weights * side * side


def test_counts_equal_a_count_by_hand():
    # Four halvings of 48 x 48 to 3 x 3; two residual blocks; 9 weights a channel at the end; the
    # affine part of every BatchNorm and a PReLU slope a channel where there is one.
    convs = [
        _conv(3, 24, 24),
        _conv(24, 48, 12),
        _conv(48, 96, 6),
        _conv(96, 96, 6),
        _conv(96, 96, 6),
        _conv(96, 192, 3),
        _conv(192, 192, 3),
        _conv(192, 192, 3),
        (192 * 9, 192 * 9),
        _conv(192, 128, 1, kernel=1),
    ]
    norms = 24 + 48 + 3 * 96 + 3 * 192 + 192 + 128
    slopes = 24 + 48 + 3 * 96 + 3 * 192
    total = count(build("facenet_small"), (48, 48))["total"]
    assert total.parameters == sum(weights for weights, _ in convs) + 2 * norms + slopes
    assert total.multiply_adds == sum(products for _, products in convs)


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = build("facenet_small", embedding_dim=32, image_size=32)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(("side", "dimension"), [(32, 16), (48, 64), (64, 128)])
def test_it_is_built_for_the_size_asked_for(side, dimension):
    network = build("facenet_small", embedding_dim=dimension, image_size=side).eval()
    assert network(torch.zeros(2, 3, side, side)).shape == (2, dimension)
    with pytest.raises(ValueError, match="was built for images with a last map of"):
        network(torch.zeros(2, 3, side + 16, side + 16))
