"""A network with the layer in the engine, on ZeRO 0-3: plain torch's steps, weights made once each.

Float32 tolerance as in the engine's own tests: sums over ranks and images in another order.
"""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.trainer import toy
from tests.trainer.layers.tvconv.cases import unfolded
from tests.trainer.test_engine import loss_of, make, parameters
from trainer.layers.tvconv import TVConv2d

STEPS = 3
RATE = 0.02


class Unfolded(TVConv2d):
    """The layer without anything kept, as the paper's code computes it."""

    def forward(self, image: Tensor) -> Tensor:
        return unfolded(image, self.weight_block(), stride=self.stride)


class Varying(nn.Sequential):
    def __init__(self, kind: type[TVConv2d] = TVConv2d) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            kind(4, map_size=(3, 3), hidden=3),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(36, toy.EMBEDDING_DIM),
        )


class Dense(Varying):
    def __init__(self) -> None:
        super().__init__(Unfolded)


def train(stage: Literal[0, 1, 2, 3], recompute: bool) -> tuple[dict[str, Tensor], Tensor, int]:
    engine = make(stage, Varying, recompute=recompute)
    topology, made = engine.topology, []
    engine.module.get_submodule("1.weight_block").register_forward_hook(lambda *_: made.append(1))
    for step in range(STEPS):
        shares = toy.images(8, seed=step).chunk(2 * topology.world_size)
        mine = shares[2 * topology.rank : 2 * topology.rank + 2]
        losses = [loss_of(engine.forward(share)) for share in mine]
        engine.backward(torch.stack(losses).mean())
        assert engine.step(RATE).applied
    times = len(made)
    evaluated = torch.cat([engine.evaluate(image) for image in toy.images(4, seed=9).chunk(2)])
    return parameters(engine), evaluated, times


def train_plainly(pieces: int) -> tuple[dict[str, Tensor], Tensor]:
    net = toy.network(Dense)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-2)
    for step in range(STEPS):
        optimizer.zero_grad()
        shares = toy.images(8, seed=step).chunk(pieces)
        torch.stack([loss_of(net(share)) for share in shares]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        evaluated = net(toy.images(4, seed=9))
    return {name: p.detach() for name, p in net.named_parameters()}, evaluated


@pytest.mark.parametrize(("stage", "recompute"), [(0, False), (1, True), (3, False), (3, True)])
def test_steps_are_plain_torchs_and_weights_are_made_once_a_step(ranks, stage, recompute):
    expected, embedding = train_plainly(pieces=4)
    for found, evaluated, times in ranks(2).run(train, stage, recompute):
        if stage < 3:  # there, parameters come and go with every forward
            assert times == STEPS
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=name)
        torch.testing.assert_close(evaluated, embedding, rtol=1e-4, atol=1e-5)
