"""Updates of rows: torch.optim's, in any dtype, without the part along the row, and not skipped."""

import pytest
import torch

from sharded_fc.optimizer import SGD, AdamW, Optimizer, RowWise
from sharded_fc.storage import RowSlice

GO, SKIP = torch.zeros((), dtype=torch.bool), torch.ones((), dtype=torch.bool)
RATES = (0.1, 0.05, 0.2)

OPTIMIZERS = [
    SGD(momentum=0.0, weight_decay=0.0),
    SGD(momentum=0.0, weight_decay=5e-2),
    SGD(momentum=0.9, weight_decay=0.0),
    SGD(momentum=0.9, weight_decay=5e-2),
    SGD(momentum=0.9, weight_decay=5e-2, nesterov=True),
    AdamW(weight_decay=0.0),
    AdamW(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
    RowWise(beta=0.9, eps=1e-6, weight_decay=0.1),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def rows_of(optimizer: Optimizer, centre: torch.Tensor, state_dtype: torch.dtype) -> RowSlice:
    state = {
        name: torch.zeros(len(centre), width, dtype=torch.float32 if width == 1 else state_dtype)
        for name, width in optimizer.state_widths(centre.shape[1]).items()
    }
    if centre.dtype == torch.float64:
        state = {name: tensor.double() for name, tensor in state.items()}
    return RowSlice(centre, state, 100)


def step_once(optimizer: Optimizer, rows: RowSlice, gradient: torch.Tensor, **changes) -> None:
    arguments = {
        "along": None,
        "learning_rate": 0.1,
        "step": torch.tensor(0),
        "seed": 1,
        "skip": GO,
    }
    optimizer.update(rows, gradient, **{**arguments, **changes})


def in_torch(optimizer: SGD | AdamW, weights: torch.Tensor) -> torch.optim.Optimizer:
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(
            [weights],
            lr=1.0,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
    return torch.optim.AdamW(
        [weights],
        lr=1.0,
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:-1])
def test_three_updates_equal_torchs_with_a_changing_learning_rate(optimizer):
    torch.manual_seed(0)
    centre = torch.randn(7, 5, dtype=torch.float64)
    theirs = centre.clone().requires_grad_()
    rows = rows_of(optimizer, centre, torch.float64)
    dense = in_torch(optimizer, theirs)
    for number, rate in enumerate(RATES):
        gradient = torch.randn(7, 5, dtype=torch.float64)
        theirs.grad = gradient.clone()
        dense.param_groups[0]["lr"] = rate
        dense.step()
        step_once(optimizer, rows, gradient, learning_rate=rate, step=torch.tensor(number))
    # The same operations, grouped otherwise: a few units of the last place of float64.
    torch.testing.assert_close(rows.centre, theirs.detach(), rtol=1e-13, atol=1e-14)
    names = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq"}
    for name, tensor in rows.state.items():
        torch.testing.assert_close(tensor, dense.state[theirs][names[name]], rtol=1e-13, atol=1e-14)


def test_the_row_wise_optimizer_is_its_formula():
    optimizer = RowWise(beta=0.9, eps=1e-3, weight_decay=0.1)
    torch.manual_seed(0)
    centre = torch.randn(7, 5, dtype=torch.float64)
    wanted, square = centre.clone(), torch.zeros(7, 1, dtype=torch.float64)
    rows = rows_of(optimizer, centre, torch.float64)
    for rate in RATES:
        gradient = torch.randn(7, 5, dtype=torch.float64)
        square = 0.9 * square + 0.1 * gradient.square().mean(1, keepdim=True)
        wanted = wanted * (1 - rate * 0.1) - rate * gradient / (square.sqrt() + 1e-3)
        step_once(optimizer, rows, gradient, learning_rate=rate)
    torch.testing.assert_close(rows.centre, wanted, rtol=1e-13, atol=1e-14)  # as above
    torch.testing.assert_close(rows.state["square"], square, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_part_along_the_row_is_taken_off_the_gradient(optimizer):
    torch.manual_seed(0)
    centre, gradient = torch.randn(2, 7, 5, dtype=torch.float64)
    along = torch.randn(7, dtype=torch.float64)
    apart = rows_of(optimizer, centre.clone(), torch.float64)
    step_once(optimizer, apart, gradient - along.unsqueeze(1) * centre)
    fused = rows_of(optimizer, centre.clone(), torch.float64)
    step_once(optimizer, fused, gradient, along=along)
    assert torch.equal(fused.centre, apart.centre)  # the same two operations


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_update_with_a_bad_gradient_changes_no_bit(optimizer, dtype):
    rows = rows_of(optimizer, torch.randn(7, 5).to(dtype), torch.float32)
    rows.centre[2, 3] = float("nan")
    before = as_bytes(rows)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    step_once(optimizer, rows, torch.full((7, 5), float("nan"), dtype=working), skip=SKIP)
    assert as_bytes(rows) == before


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learning_rate_of_zero_keeps_the_bits_of_the_centres(
    monkeypatch, optimizer, dtype, native
):
    monkeypatch.setenv("FACESCALE_NATIVE", native)
    torch.manual_seed(0)
    rows = rows_of(optimizer, torch.randn(7, 5).to(dtype), torch.float32)
    rows.centre[0] = -0.0
    before = as_bytes(rows)["centre"]
    working = torch.float64 if dtype == torch.float64 else torch.float32
    step_once(optimizer, rows, torch.randn(7, 5, dtype=working), learning_rate=0.0)
    assert as_bytes(rows)["centre"] == before


def as_bytes(rows: RowSlice) -> dict[str, bytes]:
    tensors = {"centre": rows.centre, **rows.state}
    return {name: t.contiguous().view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[3], OPTIMIZERS[6], OPTIMIZERS[7]])
def test_two_byte_rows_follow_float32_rows_where_rounding_to_nearest_stands_still(optimizer):
    """Steps of a tenth of a unit of the last place: they add up only if right in the mean."""
    steps, rate = 200, 3e-5 if isinstance(optimizer, SGD) else 3e-4
    torch.manual_seed(0)
    start = torch.full((50, 64), 1.0).bfloat16()
    pull = torch.randn(50, 64).sign()
    exact = rows_of(optimizer, start.float(), torch.float32)
    ours = rows_of(optimizer, start.clone(), torch.bfloat16)
    nearest = rows_of(optimizer, start.float(), torch.float32)
    for number in range(steps):
        for rows in (exact, ours, nearest):
            gradient = pull.clone()
            step_once(optimizer, rows, gradient, learning_rate=rate, step=torch.tensor(number))
        nearest.centre.copy_(nearest.centre.bfloat16())
    moved = (exact.centre - 1).abs().mean()
    assert moved > 2**-7  # over a unit of the last place
    # The mean over 3200 values a side of independent roundings; 5 % is over ten of its deviations.
    for side in (pull > 0, pull < 0):
        drift = (exact.centre - ours.centre.float())[side].mean().abs()
        assert drift < 0.05 * moved
        assert (exact.centre - nearest.centre)[side].mean().abs() > 0.5 * moved


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (SGD, {"momentum": 1.0}, r"momentum 1.0; use a value in \[0, 1\)"),
        (SGD, {"momentum": -0.1}, r"momentum -0.1; use a value in \[0, 1\)"),
        (SGD, {"weight_decay": -1.0}, "weight_decay -1.0; use 0 or more"),
        (SGD, {"weight_decay": float("nan")}, "weight_decay nan; use 0 or more"),
        (SGD, {"momentum": 0.0, "nesterov": True}, "use a momentum in"),
        (AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\] 1.0; use a value in \[0, 1\)"),
        (AdamW, {"eps": 0.0}, "eps 0.0; use more than 0"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay -1.0; use 0 or more"),
        (RowWise, {"beta": 1.0}, r"beta 1.0; use a value in \[0, 1\)"),
        (RowWise, {"eps": -1.0}, "eps -1.0; use more than 0"),
    ],
)
def test_numbers_that_diverge_are_refused(kind, changes, told):
    usual = {"momentum": 0.9, "weight_decay": 0.0} if kind is SGD else {}
    with pytest.raises(ValueError, match=told):
        kind(**{**usual, **changes})


def test_state_is_as_wide_as_the_optimizer_needs():
    assert SGD(momentum=0.0, weight_decay=0.0).state_widths(8) == {}
    assert SGD(momentum=0.9, weight_decay=0.0).state_widths(8) == {"momentum": 8}
    assert AdamW().state_widths(8) == {"mean": 8, "square": 8}
    assert RowWise().state_widths(8) == {"square": 1}
