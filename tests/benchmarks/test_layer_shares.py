"""Shares of a network's seconds: of every kind of layer in it, and of no other."""

import pytest
import torch

from tests.benchmarks.bench_backbones import stock
from tests.benchmarks.layer_shares import backward_shares, forward_shares
from trainer.backbones import build
from trainer.forwards import channels_last


@pytest.mark.parametrize("of", [forward_shares, backward_shares])
def test_shares_of_a_network_sum_to_one_and_name_its_kinds(of):
    torch.manual_seed(0)
    network = build("vargfacenet", embedding_dim=8, image_size=32).train()
    shares, seconds = of(network, channels_last(torch.rand(4, 3, 32, 32)))
    assert seconds > 0
    assert sum(shares.values()) == pytest.approx(1)
    spent = {kind for kind, share in shares.items() if share > 0} - {"rest"}
    assert spent == {"pointwise", "grouped", "dense", "linear", "norm", "prelu", "excite"}


def test_the_stock_network_has_torchs_layers_and_gives_the_same():
    torch.manual_seed(0)
    network = build("vargfacenet", embedding_dim=8, image_size=32)
    plain = stock(network)
    modules = {type(module).__module__ for module in plain.modules() if not list(module.children())}
    assert all(name.startswith("torch.nn") for name in modules)
    image = channels_last(torch.rand(4, 3, 32, 32))
    torch.testing.assert_close(plain(image), network(image), rtol=1e-3, atol=1e-3)
