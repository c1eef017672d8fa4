"""Calibration at toy sizes: every number is there, the same on every rank, and a plan can use it.

No number is compared with a time: whether predictions come true is `bench_plan`'s to say.
"""

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch

from tests.ranks import RankPools
from tests.trainer.planning.numbers import machine
from trainer.errors import RunError
from trainer.planning import request
from trainer.planning.plan import make_plan
from trainer.planning.ranks import on_ranks
from trainer.planning.recommend import recommend
from trainer.planning.text import plan_text

WORLD = 2
CHANGES = ("backbone.name=facenet_small", "data.image_size=16", "batch.micro_batch_size=4")


def asked(ranks: int) -> request.Request:
    return request.make(
        None,
        (*CHANGES, "head.precision=fp32"),
        identities=1000,
        images=None,
        ranks=ranks,
        epochs=None,
        rate=None,
        pool_share=None,
        on_cpu=True,
    )


def measured(ranks: int) -> Any:
    """What `calibrate.measure` finds on these ranks, with everything as small as it can be."""
    from trainer.planning import (
        calibrate,
        calibrate_cost,
        calibrate_head,
        calibrate_run,
        yardstick,
    )
    from trainer.topology import Topology

    calibrate_head.DIMS, calibrate_head.BATCHES = (8, 16), (4, 8)
    calibrate_head.MINED_ROWS, calibrate_head.TOUCHED_ROWS = 256, 32
    calibrate_head.DRAWN_CLASSES, calibrate_head.POOL_SLOTS = 2048, 64
    calibrate_head.LONG_S = calibrate_head.SHORT_S = calibrate_cost.LONG_S = 0.0
    calibrate.USUAL = calibrate_cost.USUAL[:1]
    calibrate_cost.WHOLE, calibrate_cost.SAMPLED = ((16, 4), (8, 8)), ((16, 4, 0.1),)
    calibrate_cost.TABLE_BYTES = calibrate_cost.SAMPLED_BYTES = 1 << 17
    calibrate_run.DISK_BYTES, calibrate_run.WARM_STEPS, calibrate_run.STEPS = 4096, 1, 2
    calibrate_run.TABLE_ROWS, calibrate_run.TAKEN_BLOCKS, calibrate_run.BLOCK = 256, 4, 8
    calibrate_run.FACES, calibrate_run.PEOPLE, calibrate_run.LOADED_S = 16, 4, 0.01
    calibrate.LEAST_ROUNDS = 1
    yardstick.COPIED_ITEMS, yardstick.LEAST_S = 1 << 10, 0.0
    torch.set_num_threads(1)
    return calibrate.measure(Topology.of_default_group(), asked(ranks).run, 1, 0.0)


def test_two_ranks_find_every_constant_and_a_plan_uses_them(ranks: RankPools):
    found = ranks(WORLD).run(measured, WORLD)
    first = found[0]
    for other in found[1:]:
        assert other.backbones == first.backbones
        assert other.heads == first.heads
        assert other.yardstick == first.yardstick
    assert (first.ranks, first.threads) == (WORLD, 1)
    assert {(each.dim, each.batch) for each in first.products} == {
        (dim, batch) for dim in (8, 16) for batch in (4, 8)
    }
    numbers = [
        value
        for each in (first, *first.heads, *first.products, *first.backbones, first.yardstick)
        for value in asdict(each).values()
        if isinstance(value, float)
    ]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert first.loader_images_per_s > 0
    assert first.loader_core_s > 0
    assert first.yardstick.operations_per_s > 0
    assert first.yardstick.bytes_per_s > 0
    assert first.hop_s > 0
    plan = make_plan(asked(WORLD), machine(first))
    text = plan_text(plan, recommend(plan))
    assert "not measured" not in text
    assert plan.candidates[0].step_s > first.backbones[0].forward_s


def failing(topology: Any) -> None:
    """Work that the second of two ranks does not survive, while the first waits for it."""
    import torch.distributed as dist

    if topology.rank == 1:
        raise ValueError("no room for more")
    dist.barrier()


def test_ranks_that_fail_are_an_error_of_one_line_and_hang_nobody(capfd):
    with pytest.raises(RunError, match="2 ranks of this machine could not be measured") as raised:
        on_ranks(failing, ranks=2, threads=1)
    assert "\n" not in str(raised.value)
    assert "no room for more" in capfd.readouterr().err
