"""The kernels that update rows: bit for bit what the torch code does."""

import pytest
import torch
from torch import Tensor

from sharded_fc.optimizer import SGD, AdamW, RowWise
from tests.sharded_fc.kernels.interpreter import Interpreter

OPTIMIZERS = [
    SGD(momentum=0.0, weight_decay=0.0),
    SGD(momentum=0.9, weight_decay=0.0),
    SGD(momentum=0.9, weight_decay=5e-2, nesterov=True),
    AdamW(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
    RowWise(beta=0.9, eps=1e-6, weight_decay=0.1),
]
# Odd, even, powers of two, fewer columns than a hash serves, more than a program takes at a time.
TABLES = [
    (torch.float32, 5),
    (torch.float32, 600),
    (torch.bfloat16, 64),
    (torch.bfloat16, 511),
    (torch.float16, 1),
    (torch.float16, 12),
]
FIRST_ROW = (1 << 33) - 3
SEED = 1 << 40


def tables(dtype: torch.dtype, width: int, rows: int) -> list[Tensor]:
    """A centre with values of every size, and a gradient."""
    generator = torch.Generator().manual_seed(width)
    size = 10.0 ** torch.randint(-9, 5, (rows, 1), generator=generator)
    size[0] = 1.0
    centre = torch.randn(rows, width, generator=generator) * size
    return [centre.to(dtype), torch.randn(rows, width, generator=generator)]


def steps(
    optimizer: SGD | AdamW | RowWise,
    dtype: torch.dtype,
    state_dtype: torch.dtype,
    width: int,
    *,
    along: bool = True,
    skipped: tuple[int, ...] = (),
    rates: tuple[float, ...] = (0.1, 0.0, 0.2),
    device: torch.device | str = "cpu",
) -> list[list[Tensor]]:
    """Every table after a few steps, by the kernel and by torch."""
    from sharded_fc.kernels import update
    from sharded_fc.storage import RowSlice

    centre, gradient = (table.to(device) for table in tables(dtype, width, rows=9))
    answers = []
    for by_kernel in (True, False):
        state = {
            name: torch.zeros(
                9, columns, dtype=torch.float32 if columns == 1 else state_dtype, device=device
            )
            for name, columns in optimizer.state_widths(width).items()
        }
        rows = RowSlice(centre.clone(), state, FIRST_ROW)
        for number, rate in enumerate(rates):
            arguments = {
                "learning_rate": rate,
                "step": torch.tensor(number, device=device),
                "seed": SEED,
                "skip": torch.tensor(number in skipped, device=device),
            }
            parts = (gradient.clone() * (number + 1), gradient[:, 0] * 0.1 if along else None)
            if by_kernel:
                update.update(optimizer, rows, *parts, **arguments)
            else:
                optimizer.update(rows, *parts, **arguments)
        answers.append([rows.centre.float(), *(tensor.float() for tensor in state.values())])
    return answers


@pytest.mark.parametrize(("dtype", "width"), TABLES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_updates_have_the_bits_of_torchs(interpreter: Interpreter, optimizer, dtype, width):
    found, expected = interpreter(steps, optimizer, dtype, torch.float32, width)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[1:], ids=str)
def test_updates_of_two_byte_states_have_the_bits_of_torchs(interpreter: Interpreter, optimizer):
    brain = torch.bfloat16
    found, expected = interpreter(steps, optimizer, brain, brain, 130)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_skipped_update_changes_nothing(interpreter: Interpreter, optimizer):
    found, _ = interpreter(all_skipped, optimizer)
    centre, _ = tables(torch.bfloat16, 33, 9)
    assert torch.equal(found[0], centre.float())
    assert not any(tensor.any() for tensor in found[1:])


def all_skipped(optimizer: SGD | AdamW | RowWise) -> list[list[Tensor]]:
    brain = torch.bfloat16
    return steps(optimizer, brain, brain, 33, along=False, skipped=(0, 1, 2))


def test_infinities_and_nans_stay_such(interpreter: Interpreter):
    value = torch.tensor([[torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0, -0.0, 1e-40]])
    for dtype in (torch.bfloat16, torch.float16):
        found, expected = interpreter(rounded, value, dtype)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0, equal_nan=True)


def rounded(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    import warnings

    from sharded_fc.kernels import update
    from sharded_fc.optimizer import SGD
    from sharded_fc.rounding import round_stochastically, rounding_key
    from sharded_fc.storage import RowSlice

    rows = RowSlice(torch.zeros(value.shape, dtype=dtype), {}, FIRST_ROW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of casts of NaN
        update.update(
            SGD(momentum=0.0, weight_decay=0.0),
            rows,
            value,
            None,
            learning_rate=-1.0,
            step=torch.tensor(5),
            seed=SEED,
            skip=torch.tensor(data=False),
        )
    key = rounding_key(seed=SEED, step=5, tensor=0)
    expected = round_stochastically(value, dtype, key=key, first_row=FIRST_ROW)
    return rows.centre.float(), expected.float()
