"""What a transformer leaves out in training follows the micro-batch, and only where it learns."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.backbones.vit import VisionTransformer
from trainer.layers.stochastic import DropPath, random_subset, seed_draws

SIDE, DIM = 32, 16


def small(*, drop_path: float = 0.5, left_out: float = 0.4) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        embedding_dim=8,
        image_size=(SIDE, SIDE),
        dim=DIM,
        depth=3,
        drop_path=drop_path,
        left_out=left_out,
    )


def faces(seed: int = 0) -> Tensor:
    return torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_micro_batch_s_draws_follow_its_key_and_nothing_else():
    network = small()
    seed_draws(7, 3, 1)
    first = network(faces())
    torch.rand(100)
    seed_draws(7, 3, 1)
    assert torch.equal(network(faces()), first)
    for key in ((7, 3, 2), (7, 4, 1), (8, 3, 1)):
        seed_draws(*key)
        assert not torch.equal(network(faces()), first)


def test_a_replayed_forward_draws_the_same():
    gradients = []
    for replay in (False, True):
        network = small()
        seed_draws(7, 3, 1)
        forward = partial(checkpoint, network, use_reentrant=False) if replay else network
        output = forward(faces())
        torch.rand(3)
        output.square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_out_where_nothing_learns(training):
    network = small().train(training)
    whole = small(drop_path=0.0, left_out=0.0).train(training)
    whole.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(network(faces()), whole(faces()))


def test_a_share_of_the_tokens_is_left_out_in_training_and_its_places_learn_one_token():
    network = small(drop_path=0.0)
    assert network.kept == 5  # of 9
    seen = []
    network.blocks.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    network(faces()).square().sum().backward()
    assert seen == [(4, 5, DIM)]
    assert network.mask_token is not None
    assert network.mask_token.grad is not None
    assert network.mask_token.grad.any()


def test_subsets_are_in_order_without_repeats_and_even():
    torch.manual_seed(0)
    place = random_subset(20_000, 6, 4, device=torch.device("cpu"))
    assert (place.diff(dim=1) > 0).all()
    share = place.flatten().bincount(minlength=6) / 20_000
    # The share of a binomial of 20,000 draws at 2/3 deviates by 0.0033; five of those.
    torch.testing.assert_close(share, torch.full((6,), 4 / 6), rtol=0.0, atol=0.017)


def test_dropped_paths_keep_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    kept = layer(torch.ones(20_000, 2))
    assert set(kept[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(kept[:, 0], kept[:, 1])
    # The deviation of the mean is sqrt(0.25 / 0.75 / 20,000) = 0.0041; five of those.
    assert abs(kept.mean() - 1) < 0.021
    assert torch.equal(layer.eval()(torch.ones(3, 2)), torch.ones(3, 2))
