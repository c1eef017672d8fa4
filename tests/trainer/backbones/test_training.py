"""Every kind of network trains as in plain torch: on ZeRO 0 to 3, and replayed in backward."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from tests.trainer import toy
from trainer import engine as engine_module
from trainer.backbones import build
from trainer.backbones.iresnet import IResNet
from trainer.backbones.replace import Rule, replace
from trainer.backbones.vit import VisionTransformer
from trainer.engine import Engine
from trainer.forwards import channels_last
from trainer.layers.stochastic import seed_draws

SIZES = {"embedding_dim": 8, "image_size": (32, 32)}
RULES = [
    Rule(what="pointwise", stages=(3,), kind="drconv", options={"regions": 3}),
    Rule(what="pointwise", stages=(4,), kind="drconv", options={"regions": 2, "guide": "own"}),
    Rule(what="depthwise", stages=(3,), kind="tvconv", options={"hidden": 4, "layers": 0}),
]
RATE = 0.002
Stage = Literal[0, 1, 2, 3]


def network(name: str) -> nn.Module:
    """A small one of each kind, the same on every rank and in the parent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        match name:
            case "iresnet":
                return IResNet(repeats=(1, 1, 1, 1), **SIZES)
            case "vit":
                return VisionTransformer(dim=32, depth=2, drop_path=0.3, left_out=0.3, **SIZES)
            case "replaced":
                made = build("mobilefacenet", embedding_dim=8, image_size=32)
                replace(made, RULES, image_size=(32, 32))
                return made
            case _:
                return build(name, embedding_dim=8, image_size=32)


def losses(forward, step: int, micro_batches: range) -> Tensor:
    """The sum over micro-batches, each with draws of its own."""
    found = []
    for micro_batch in micro_batches:
        generator = torch.Generator().manual_seed(10 * step + micro_batch)
        image = torch.rand(6, 3, 32, 32, generator=generator) * 2 - 1
        seed_draws(0, step, micro_batch)
        found.append(forward(image).square().sum(1).sub(1).square().mean())
    return torch.stack(found).sum()


def trained(name: str, stage: Stage, recompute: bool, steps: int) -> dict[str, Tensor]:
    """The parameters after some steps of two micro-batches a rank."""
    engine_module.PERSISTENT_NUMEL = 0  # ZeRO 3 cuts even the smallest parameters
    engine = Engine(
        network(name),
        optimizer="sgd",
        weight_decay=0.0,
        zero_stage=stage,
        recompute=recompute,
        topology=toy.topology(),
    )
    rank = engine.topology.rank
    for step in range(steps):
        engine.backward(losses(engine.forward, step, range(2 * rank, 2 * rank + 2)))
        assert engine.step(RATE).applied
    state = engine.read_state(keep=True)
    assert state is not None
    return state.parameters


def trained_plainly(name: str, steps: int) -> dict[str, Tensor]:
    plain = network(name).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        whole = losses(lambda image: plain(channels_last(image)), step, range(4))
        (whole / 2).backward()  # the mean over two ranks
        optimizer.step()
    return {key: value.detach() for key, value in plain.named_parameters()}


# One step where a second one has kinks that rounding can cross: ReLU's, and the choice of a region.
@pytest.mark.parametrize(
    ("name", "stage", "recompute", "steps"),
    [
        ("iresnet", 0, True, 1),
        ("iresnet", 3, False, 2),
        ("vit", 2, False, 1),
        ("vit", 3, True, 2),
        ("vargfacenet", 2, False, 1),
        ("vargnet_v2_050", 1, True, 1),
        ("mbf", 1, False, 1),
        ("mobilefacenet", 3, True, 1),
        ("mobilenetv2_010", 1, True, 1),
        ("shufflenetv2_050", 2, False, 1),
        ("replaced", 1, True, 1),
        ("replaced", 3, False, 1),
    ],
)
def test_a_network_trains_on_two_ranks_as_in_plain_torch(ranks, name, stage, recompute, steps):
    expected = trained_plainly(name, steps)
    got = ranks(2).run(trained, name, stage, recompute, steps)[0]
    first = dict(network(name).named_parameters())
    assert any(not torch.equal(value, first[key]) for key, value in expected.items())
    # Sums over ranks in another order: float32's 6e-8 for gradients of some tens, times the rate.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
