"""Rows that steps passed by, beside a dense optimizer in float64 that took every step."""

import math

import pytest
import torch

from sharded_fc.catch_up import CatchUp, idle_step
from sharded_fc.native_build import SWITCH
from sharded_fc.optimizer import SGD, AdamW, RowWise
from sharded_fc.reference.optimizers import NAMES, make_optimizer
from sharded_fc.storage import Rows

DIM = 8
GAPS = (1, 10, 100, 1000, 10_000)
RULES = [
    SGD(momentum=0.9, weight_decay=5e-4),
    SGD(momentum=0.9, weight_decay=5e-4, nesterov=True),
    SGD(momentum=0.0, weight_decay=5e-4),
    SGD(momentum=0.9, weight_decay=0.0),
    RowWise(beta=0.999, weight_decay=5e-4),
]
GO = torch.zeros((), dtype=torch.bool)
ZERO = torch.zeros((), dtype=torch.int64)


def rate(step, *, warm=500, total=10_000, highest=0.1):
    """A warm-up and a cosine, down to 0."""
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def make_rows(rule, *, count=5, dtype=torch.float64, state_dtype=None, seed=0):
    rows = Rows(
        0,
        count,
        embedding_dim=DIM,
        state_widths=rule.state_widths(DIM),
        seed=seed,
        device=torch.device("cpu"),
        dtype=dtype,
        state_dtype=state_dtype or dtype,
    )
    rows.ready(0, count)
    generator = torch.Generator().manual_seed(seed)
    for table in (rows.centre, *rows.state.values()):
        # As a step with a gradient leaves them: a mean square is not negative.
        table.copy_(torch.rand(table.shape, generator=generator, dtype=torch.float64) + 0.1)
    return rows


def dense(rule, rows):
    """All rows in float64 under torch.optim, and a function that takes a step without gradient."""
    leaf = rows.centre.to(torch.float64, copy=True).requires_grad_()
    optimizer = make_optimizer(rule, [(leaf, 0.0)])
    for name, table in rows.state.items():
        optimizer.state[leaf][NAMES[type(rule)][name]] = table.to(torch.float64, copy=True)

    def step(learning_rate):
        optimizer.param_groups[0]["lr"] = learning_rate
        leaf.grad = torch.zeros_like(leaf)
        optimizer.step()

    def now():
        state = {name: optimizer.state[leaf][NAMES[type(rule)][name]] for name in rows.state}
        return {"centre": leaf.detach(), **state}

    return step, now


def present(catch_up, rows):
    """All rows as they would be brought to the present; nothing changes."""
    index, before = torch.arange(len(rows)), copies(rows)
    alone = catch_up.centres(index, step=ZERO)
    catch_up.bring(index, step=ZERO, skip=GO)
    found = copies(rows)
    assert torch.equal(alone, found["centre"])
    for name, value in before.items():
        (rows.centre if name == "centre" else rows.state[name]).copy_(value)
    return found


def copies(rows):
    return {name: table.clone() for name, table in {"centre": rows.centre, **rows.state}.items()}


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rows_idle_for_up_to_ten_thousand_steps_are_where_the_dense_optimizer_has_them(rule):
    """Below 1e-6 of the largest entry from float32 rows, 1e-12 from float64 rows."""
    exact = make_rows(rule)
    single = make_rows(rule, dtype=torch.float32)
    for table, other in zip(
        (exact.centre, *exact.state.values()),
        (single.centre, *single.state.values()),
        strict=True,
    ):
        table.copy_(other)
    step, now = dense(rule, exact)
    catch_up = {rows: CatchUp(rule, rows, ratios=(), seed=0) for rows in (exact, single)}
    for number in range(max(GAPS)):
        step(rate(number))
        for each in catch_up.values():
            each.step([], learning_rate=rate(number), skip=GO)
        if number + 1 not in GAPS:
            continue
        for rows, bound in ((exact, 1e-12), (single, 1e-6)):
            found = present(catch_up[rows], rows)
            for name, expected in now().items():
                # Of momentum 0 and rate 0 nothing may be left to divide by.
                size = expected.abs().max().clamp_min(1e-30)
                assert (found[name].double() - expected).abs().max() / size < bound, (name, number)


@pytest.mark.parametrize("rule", RULES[:2], ids=str)
def test_rows_visited_now_and_then_stay_with_the_dense_optimizer(rule):
    """A row is caught up, moved by the step like all others, and idle again."""
    rows = make_rows(rule, count=7)
    step, now = dense(rule, rows)
    catch_up = CatchUp(rule, rows, ratios=(), seed=0)
    generator = torch.Generator().manual_seed(2)
    for number in range(300):
        visited = (torch.rand(7, generator=generator) < 0.1).nonzero().squeeze(1)
        catch_up.bring(visited, step=torch.tensor(number), skip=GO)
        learning_rate = rate(number, warm=30, total=300)
        rule.update(
            rows.at(visited),
            torch.zeros(len(visited), DIM, dtype=torch.float64),
            None,
            learning_rate=learning_rate,
            step=torch.tensor(number),
            seed=0,
            skip=GO,
        )
        catch_up.step([visited], learning_rate=learning_rate, skip=GO)
        step(learning_rate)
    catch_up.finish(step=torch.tensor(300))
    for name, expected in now().items():
        kept = rows.centre if name == "centre" else rows.state[name]
        # The same steps in another order of operations.
        torch.testing.assert_close(kept, expected, rtol=1e-12, atol=1e-12)


def test_a_skipped_step_is_none():
    rule = RULES[0]
    rows = make_rows(rule)
    catch_up, plain = (CatchUp(rule, rows, ratios=(), seed=0) for _ in range(2))
    index = torch.tensor([1, 3])
    for number in range(50):
        skip = number % 4 == 0
        catch_up.step([index], learning_rate=rate(number), skip=torch.tensor(skip))
        if not skip:
            plain.step([index], learning_rate=rate(number), skip=GO)
    for one, other in zip(
        present(catch_up, rows).values(), present(plain, rows).values(), strict=True
    ):
        assert torch.equal(one, other)


def test_each_range_of_rows_follows_its_own_learning_rate_and_frozen_rows_keep_their_bits():
    rule = RULES[0]
    rows = make_rows(rule, count=9)
    catch_up = CatchUp(rule, rows, ratios=[(-2, 3, 0.0), (4, 6, 2.0), (6, 20, 0.5)], seed=0)
    twins = {ratio: dense(rule, rows) for ratio in (1.0, 2.0, 0.5)}
    before = copies(rows)
    for number in range(100):
        catch_up.step([], learning_rate=rate(number), skip=GO)
        for ratio, (step, _) in twins.items():
            step(rate(number) * ratio)
    found = present(catch_up, rows)
    for name, old in before.items():
        assert torch.equal(found[name][:3], old[:3])
        for ratio, part in ((1.0, slice(3, 4)), (2.0, slice(4, 6)), (0.5, slice(6, 9))):
            expected = twins[ratio][1]()[name][part]
            torch.testing.assert_close(found[name][part], expected, rtol=1e-12, atol=1e-12)


def test_two_byte_rows_are_rounded_to_their_present_values_without_bias():
    rule = RULES[0]
    rows = make_rows(rule, count=4096, dtype=torch.bfloat16)
    rows.centre.fill_(1.0)
    rows.state["momentum"].fill_(0.25)
    catch_up = CatchUp(rule, rows, ratios=(), seed=0)
    factor = torch.eye(2, dtype=torch.float64)
    for _ in range(10):
        catch_up.step([], learning_rate=0.01, skip=GO)
        factor = torch.tensor(idle_step(rule, learning_rate=0.01), dtype=torch.float64) @ factor
    catch_up.finish(step=torch.tensor(10))
    start = torch.tensor([1.0, 0.25], dtype=torch.float64)
    for table, expected in zip((rows.centre, rows.state["momentum"]), factor @ start, strict=True):
        # A unit of the last place is 2^-8 of the value; five standard errors of the mean.
        spread = float(expected) * 2**-8 / table.numel() ** 0.5
        assert abs(float(table.double().mean() - expected)) < 5 * spread


def test_adamw_is_refused_with_what_to_use():
    rows = make_rows(AdamW())
    with pytest.raises(ValueError, match="use 'sgd', 'nesterov' or 'rowwise', or untouched"):
        CatchUp(AdamW(), rows, ratios=(), seed=0)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "state_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_compiled_code_gives_torchs_bits(monkeypatch, rule, dtype, state_dtype):
    """Rows that missed 0 to 6 steps, in no order, and two learning rates."""
    found = {}
    for switch in ("1", "0"):
        monkeypatch.setenv(SWITCH, switch)
        rows = make_rows(rule, count=37, dtype=dtype, state_dtype=state_dtype)
        catch_up = CatchUp(rule, rows, ratios=[(3, 9, 0.5)], seed=7)
        for step in range(6):
            visited = torch.arange(step, 37, 5)
            catch_up.step([visited], learning_rate=0.1 / (1 + step), skip=GO)
        index = torch.randperm(37, generator=torch.Generator().manual_seed(0))[:30]
        step = torch.tensor(6)
        alone = catch_up.centres(index, step=step).clone()
        catch_up.bring(index, step=step, skip=GO)
        assert torch.equal(alone, rows.centre[index])
        found[switch] = copies(rows)
    for name, value in found["1"].items():
        assert torch.equal(value, found["0"][name]), name
