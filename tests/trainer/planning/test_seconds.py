"""Seconds from work and constants, where both are round numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sharded_fc.capacity import Collective, HeadShape, head_traffic, head_work
from sharded_fc.sampling import Sampling
from tests.trainer.planning.numbers import KINDS, constants, cost
from trainer.planning.constants import ProductRate
from trainer.planning.fit import fit_prices
from trainer.planning.seconds import (
    exchange_seconds,
    head_cost,
    head_seconds,
    product_rate,
)

SHAPE = HeadShape(num_classes=1000, embedding_dim=128, batch=64, world_size=1, on_cpu=True)


def test_a_steps_seconds_are_its_work_times_the_constants():
    seconds = head_seconds(SHAPE, head_work(SHAPE), head_traffic(SHAPE), constants())
    # All products of a small head are kept, so three of 2 x 1000 x 64 x 128 operations are made.
    assert seconds.products == pytest.approx(3 * 2 * 1000 * 64 * 128 / 1e9, rel=1e-12)
    assert seconds.logits == pytest.approx(64_000e-9, rel=1e-12)
    assert seconds.rows == pytest.approx(128_000e-9, rel=1e-12)
    assert seconds.sampling == seconds.moving == seconds.exchange == seconds.overhead == 0


def test_products_in_a_step_take_a_factor_longer_than_by_themselves():
    numbers = constants(heads=(cost(product_factor=1.5),))
    plain = head_seconds(SHAPE, head_work(SHAPE), head_traffic(SHAPE), constants())
    whole = head_seconds(SHAPE, head_work(SHAPE), head_traffic(SHAPE), numbers)
    assert whole.products == pytest.approx(1.5 * plain.products, rel=1e-12)
    assert whole.total - whole.products == pytest.approx(plain.total - plain.products, rel=1e-9)


def test_rows_that_are_caught_up_cost_more_and_so_do_classes_that_are_mined():
    shape = replace(SHAPE, num_classes=100_000, sampling=Sampling(rate=0.1))
    caught = replace(shape, sampling=Sampling(rate=0.1, untouched="caught_up"))
    mined = replace(shape, sampling=Sampling(rate=0.1, hard_share=0.2))
    plain, late, near = (
        head_seconds(each, head_work(each), head_traffic(each), constants())
        for each in (shape, caught, mined)
    )
    elements = head_work(caught).caught
    assert elements == head_work(caught).elements > 0
    assert late.sampling == pytest.approx(plain.sampling + elements * 1e-9, rel=1e-9)
    assert plain.mining == late.mining == 0
    # Of 256 lists (two an axis of 128 columns) 31 hold a fifth more than a tenth; 64 samples, each
    # 31 of them; their embeddings, the mined and own rows and a 32nd of the drawn are rotated.
    work = head_work(mined)
    assert work.compared == pytest.approx(64 * 31 * 100_000 / 256, rel=1e-12)
    drawn, certain = mined.parts
    assert work.rotated == pytest.approx((64 + certain + drawn / 32) * 128 * 7, rel=1e-12)
    assert near.mining == pytest.approx((work.compared + work.rotated) * 1e-9, rel=1e-12)


def test_a_sampled_step_costs_its_share_and_the_drawing():
    shape = replace(SHAPE, num_classes=100_000, sampling=Sampling(rate=0.1))
    work = head_work(shape)
    seconds = head_seconds(shape, work, head_traffic(shape), constants())
    # 10,000 drawn and 64 samples' classes, less the few that are both.
    assert work.rows == pytest.approx(10_000 + 64 * 0.9, abs=1)
    assert work.drawn == 10_000
    assert seconds.sampling == pytest.approx((work.gathered + 10_000) * 1e-9, rel=1e-12)


def test_product_rates_are_interpolated_in_logarithms_and_end_where_measurements_do():
    rates = constants(
        products=tuple(
            ProductRate(operands="float32", kind=kind, dim=dim, batch=batch, operations_per_s=rate)
            for kind in KINDS
            for dim, batch, rate in ((64, 16, 1e9), (64, 64, 4e9), (256, 16, 4e9), (256, 64, 16e9))
        )
    )

    def rate(dim: int, batch: int) -> float:
        return product_rate(rates, "float32", "products", dim, batch)

    assert rate(64, 16) == 1e9
    assert rate(128, 32) == pytest.approx(4e9, rel=1e-12)
    assert rate(512, 1024) == 16e9
    assert rate(1, 1) == 1e9
    assert product_rate(rates, "float16", "products", 64, 16) == 1e9  # nothing better is known


def test_dtypes_that_were_not_measured_cost_by_the_bytes_they_move():
    shape = replace(SHAPE, dtype=torch.bfloat16, operands=torch.float32)
    # Rows: 3 x 2 bytes, momentum 2 x 2; measured were 3 x 4 and 2 x 4.
    assert head_cost(shape, constants()).element_s == pytest.approx(0.5e-9, rel=1e-12)
    adamw = head_cost(replace(SHAPE, optimizer="adamw"), constants())
    assert adamw.element_s == pytest.approx(28 / 20 * 1e-9, rel=1e-12)


def test_exchanges_cost_hops_and_bytes_and_more_between_machines():
    traffic = [Collective(name="x", kind="all_gather", given_bytes=1000)]
    assert exchange_seconds(traffic, 1, constants()) == 0
    assert exchange_seconds(traffic, 2, constants()) == pytest.approx(1e-6 + 1e-6, rel=1e-12)
    assert exchange_seconds(traffic, 3, constants()) == pytest.approx(2e-6 + 2e-5, rel=1e-12)


def test_rows_that_move_beside_the_computation_are_waited_for_only_where_they_take_longer():
    shape = replace(SHAPE, num_classes=100_000, sampling=Sampling(rate=0.1), outside=True)
    work = head_work(shape)
    # A record: 128 numbers and their momentum in float32, two counters, a mark.
    assert work.moved_bytes == pytest.approx(2 * work.rows * (2 * 512 + 16 + 8), rel=1e-12)

    def moving(**changes: Any) -> float:
        seconds = head_seconds(shape, work, head_traffic(shape), constants(**changes))
        assert seconds.total - seconds.moving > 0.01
        return seconds.moving

    assert moving() == pytest.approx(work.moved_bytes / 1e9, rel=1e-12)
    assert moving(overlapped=True, host_bytes_per_s=1e12) == 0
    beside = head_seconds(
        shape,
        work,
        head_traffic(shape),
        constants(overlapped=True, host_bytes_per_s=1e6),
        beside_s=1e6,
    )
    assert beside.moving == 0
    slow = moving(overlapped=True, host_bytes_per_s=1e6)
    assert work.moved_bytes / 1e6 - 10 < slow < work.moved_bytes / 1e6


def test_prices_are_found_that_explain_all_steps():
    amounts = [(512.0, 16.0), (64.0, 512.0), (100.0, 100.0)]
    seconds = [3 * a + 2 * b for a, b in amounts]
    assert fit_prices(amounts, seconds, least=(0.0, 0.0)) == pytest.approx((3.0, 2.0), rel=1e-9)
    assert fit_prices(amounts, seconds, least=(2.5, 0.0)) == pytest.approx((3.0, 2.0), rel=1e-9)


def test_a_price_below_its_least_is_that_and_the_others_explain_the_steps():
    amounts = [(512.0, 16.0), (64.0, 512.0)]
    seconds = [3 * a + 2 * b for a, b in amounts]
    first, second = fit_prices(amounts, seconds, least=(0.0, 2.5))
    assert second == 2.5
    assert 2.5 < first < 3.0
    assert fit_prices([(1.0, 0.1), (0.1, 1.0)], [1.0, 0.0], least=(0.0, 0.0))[1] == 0.0


def test_a_disturbed_long_step_does_not_outweigh_short_ones():
    """Relative errors: the price that nine steps agree on is within a tenth of theirs."""
    amounts = [(1.0,)] * 9 + [(1000.0,)]
    (price,) = fit_prices(amounts, [1.0] * 9 + [2000.0], least=(0.0,))
    assert 1.0 < price < 1.1
