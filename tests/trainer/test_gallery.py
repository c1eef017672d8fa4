"""The gallery follows the network in training on every ZeRO stage, in float32 whatever it runs in.

Tolerance between stages: the networks themselves differ by sums over ranks in another order, below
1e-6 after three steps (see test_engine), and the gallery is an average of them.
"""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.trainer import toy
from tests.trainer.test_engine import OPTIMIZERS, RATES, STAGES, Stage, loss_of, make
from trainer import engine as engine_module
from trainer.engine import Engine
from trainer.errors import RunError
from trainer.gallery import Gallery

MOMENTUM = 0.99


def follow(
    stage: Stage, changes: dict[str, Any], persistent_numel: int = 0
) -> list[dict[str, Tensor]]:
    """Three steps; the gallery's start and its state after each update, and the networks'."""
    engine_module.PERSISTENT_NUMEL = persistent_numel
    engine = Engine(
        toy.network(toy.Normalised),
        zero_stage=stage,
        topology=toy.topology(),
        **{**OPTIMIZERS["sgd"], **changes},
    )
    gallery = Gallery(
        toy.network(toy.Normalised, seed=1),
        engine,
        momentum=MOMENTUM,
        batch_norm="own_batch",
        precision=changes.get("precision", "fp32"),
    )
    topology = engine.topology
    states = [gallery.read_state()]
    for step in range(3):
        image = toy.images(6, seed=step).chunk(topology.world_size)[topology.rank]
        engine.backward(loss_of(engine.forward(image)))
        assert engine.step(RATES[step]).applied
        gallery.update()
        state = engine.read_state(keep=True)
        assert state is not None
        states += [gallery.read_state(), state.parameters]
    return states


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gallery_moves_by_a_hundredth_and_alike_on_every_stage(
    ranks, precision: Literal["fp32", "bf16"]
):
    """In float32 to its rounding; with parameters in bfloat16 it would stand still."""
    changes = {"precision": precision}
    wanted = ranks(2).run(follow, 0, changes)
    for stage in STAGES:
        # Stage 3 cuts even small parameters there, and gathers them one by one.
        for found, reference in zip(ranks(2).run(follow, stage, changes), wanted, strict=True):
            start, *rest = found
            names = [name for name in start if "running" not in name]
            previous = start
            for gallery, network in zip(rest[::2], rest[1::2], strict=True):
                for name in names:
                    assert gallery[name].dtype == torch.float32
                    moved = 0.99 * previous[name].double() + 0.01 * network[name].double()
                    close = {"rtol": 1e-6, "atol": 1e-7, "check_dtype": False}
                    torch.testing.assert_close(gallery[name], moved, **close)
                    assert not torch.equal(gallery[name], previous[name]), f"{name} stood still"
                previous = gallery
            tolerance = 1e-6 if precision == "fp32" else 1e-4  # products round to 2^-9 there
            torch.testing.assert_close(found[-2], reference[-2], rtol=0.0, atol=tolerance)


def test_parameters_that_stage_3_leaves_whole_count_too(ranks):
    cut, whole = (ranks(2).run(follow, 3, {}, numel)[0] for numel in (0, 100_000))
    torch.testing.assert_close(whole, cut, rtol=0.0, atol=1e-6)


def test_every_rank_has_the_same_gallery_to_the_bit(ranks):
    one, other = ranks(2).run(follow, 3, {})
    torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


def starts(stage: Stage) -> tuple[Tensor, Tensor]:
    engine = make(stage, toy.Normalised)
    gallery = Gallery(
        toy.network(toy.Normalised, seed=1),
        engine,
        momentum=MOMENTUM,
        batch_norm="own_batch",
        precision="fp32",
    )
    image = toy.images(4, seed=0)
    return engine.forward(image).detach(), gallery.forward(image)


@pytest.mark.parametrize("stage", [0, 3])
def test_the_gallery_begins_as_the_network_itself(ranks, stage: Stage):
    """To the bit: the same kernels on the same numbers."""
    for network, gallery in ranks(2).run(starts, stage):
        assert torch.equal(gallery, network)
        assert not gallery.requires_grad


def statistics(batch_norm: Literal["own_batch", "ema"]) -> dict[str, Any]:
    engine = make(0, toy.Normalised)
    gallery = Gallery(
        toy.network(toy.Normalised, seed=1),
        engine,
        momentum=MOMENTUM,
        batch_norm=batch_norm,
        precision="fp32",
    )
    running = engine.module.get_buffer("1.running_mean")
    running.add_(1.0)
    before = gallery.read_state()["1.running_mean"]
    image = toy.images(6, seed=0)
    gallery.update()
    features = gallery.forward(image)
    return {
        "running": gallery.read_state()["1.running_mean"] - before,
        "whole": features[:3],
        "part": gallery.forward(image[:3]),
    }


def test_own_batch_normalises_by_the_batch_and_ema_by_averaged_statistics(ranks):
    (own,) = ranks(1).run(statistics, "own_batch")
    (averaged,) = ranks(1).run(statistics, "ema")
    assert not own["running"].any()
    assert (own["whole"] - own["part"]).abs().max() > 1e-2
    torch.testing.assert_close(averaged["running"], torch.full((4,), 0.01), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(averaged["whole"], averaged["part"])


def refused() -> str:
    engine = make(0, toy.Normalised)
    gallery = Gallery(
        toy.network(toy.Normalised),
        engine,
        momentum=MOMENTUM,
        batch_norm="own_batch",
        precision="fp32",
    )
    with pytest.raises(RunError) as caught:
        gallery.write_state(dict(toy.network(toy.Wide).state_dict()))
    return str(caught.value)


def test_a_gallery_of_another_backbone_is_refused(ranks):
    (message,) = ranks(1).run(refused)
    assert "the checkpoint's gallery is of another backbone" in message
    assert "\n" not in message
