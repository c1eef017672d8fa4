"""The update of a slice of rows, made while the slice is in cache.

Rows are computed in the working dtype (float32, or float64 where they are kept in it), every
operation rounded by itself, and kept in theirs: two-byte dtypes by stochastic rounding. A learning
rate of 0 leaves the bits of the centres, `skip` those of everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc import native
from sharded_fc.counter import ROUNDING, key_of
from sharded_fc.rounding import round_stochastically, rounding_key
from sharded_fc.storage import RowSlice, working_dtype


@dataclass(frozen=True)
class SGD:
    """Momentum and weight decay exactly as torch.optim.SGD, without dampening."""

    momentum: float
    weight_decay: float
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_share("momentum", self.momentum)
        _check_not_negative("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov with momentum 0; use a momentum in (0, 1), or no nesterov")

    def state_widths(self, embedding_dim: int) -> dict[str, int]:
        """The columns of each tensor that is kept between steps."""
        return {"momentum": embedding_dim} if self.momentum else {}

    def update(
        self,
        rows: RowSlice,
        gradient: Float[Tensor, "n d"],
        along: Float[Tensor, " n"] | None,
        *,
        learning_rate: float,
        step: Int[Tensor, ""],
        seed: int,
        skip: Bool[Tensor, ""],
    ) -> None:
        """Step in place by `gradient - along[:, None] * row`; the gradient may be overwritten.

        `gradient` is in the working dtype or of two bytes, `along` in the working dtype. `step`
        counts the steps taken before this one. Where `skip`, on the device, is true, no bit
        changes.
        """
        if _skipped_on_host(skip):
            return
        numbers = (learning_rate, self.momentum, self.weight_decay, float(self.nesterov))
        if _natively("sgd", rows, gradient, along, step=step, seed=seed, numbers=numbers):
            return
        store = _store(rows, learning_rate=learning_rate, step=step, seed=seed, skip=skip)
        centre, gradient = _widened(rows, gradient)
        _turn(gradient, along, centre)
        if self.weight_decay:
            gradient += centre * self.weight_decay
        if self.momentum:
            momentum = rows.read("momentum").to(gradient.dtype) * self.momentum + gradient
            store("momentum", momentum)
            direction = gradient + momentum * self.momentum if self.nesterov else momentum
        else:
            direction = gradient
        store("centre", centre - direction * learning_rate)


@dataclass(frozen=True)
class AdamW:
    """torch.optim.AdamW: `mean` and `square` are its exp_avg and exp_avg_sq (arXiv:1711.05101).

    The bias of both is corrected by the head's steps, whichever rows they changed.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for index, beta in enumerate(self.betas):
            _check_share(f"betas[{index}]", beta)
        _check_positive("eps", self.eps)
        _check_not_negative("weight_decay", self.weight_decay)

    def state_widths(self, embedding_dim: int) -> dict[str, int]:
        """The columns of each tensor that is kept between steps."""
        return {"mean": embedding_dim, "square": embedding_dim}

    def update(
        self,
        rows: RowSlice,
        gradient: Float[Tensor, "n d"],
        along: Float[Tensor, " n"] | None,
        *,
        learning_rate: float,
        step: Int[Tensor, ""],
        seed: int,
        skip: Bool[Tensor, ""],
    ) -> None:
        """As `SGD.update`."""
        if _skipped_on_host(skip):
            return
        dtype = working_dtype(rows.centre.dtype)
        mean_share, square_share = (1 - beta for beta in self.betas)
        count = (step + 1).to(torch.float64)
        step_size = (learning_rate / (1 - self.betas[0] ** count)).to(dtype)
        inverse_spread = (1 - self.betas[1] ** count).rsqrt().to(dtype)
        decay = 1 - learning_rate * self.weight_decay
        if skip.is_cpu:
            corrections = (float(step_size), float(inverse_spread))
            shares = (mean_share, self.betas[1], square_share)
            numbers = (learning_rate, *shares, *corrections, self.eps, decay)
            if _natively("adamw", rows, gradient, along, step=step, seed=seed, numbers=numbers):
                return
        store = _store(rows, learning_rate=learning_rate, step=step, seed=seed, skip=skip)
        centre, gradient = _widened(rows, gradient)
        _turn(gradient, along, centre)
        mean = rows.read("mean").to(dtype)
        mean = mean + (gradient - mean) * mean_share
        square = rows.read("square").to(dtype) * self.betas[1]
        square += gradient.square_().mul_(square_share)
        store("mean", mean)
        store("square", square)
        denominator = _root(square).mul_(inverse_spread).add_(self.eps)
        store("centre", centre * decay - (mean * step_size).div_(denominator))


@dataclass(frozen=True)
class RowWise:
    """One scale a row: v <- beta v + (1 - beta) mean(g^2), w <- w - rate g / (sqrt(v) + eps).

    Keeps one number a row where SGD keeps a row. Weight decay is decoupled, as in AdamW.
    """

    beta: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_share("beta", self.beta)
        _check_positive("eps", self.eps)
        _check_not_negative("weight_decay", self.weight_decay)

    def state_widths(self, embedding_dim: int) -> dict[str, int]:
        """The columns of each tensor that is kept between steps."""
        return {"square": 1}

    def update(
        self,
        rows: RowSlice,
        gradient: Float[Tensor, "n d"],
        along: Float[Tensor, " n"] | None,
        *,
        learning_rate: float,
        step: Int[Tensor, ""],
        seed: int,
        skip: Bool[Tensor, ""],
    ) -> None:
        """As `SGD.update`."""
        if _skipped_on_host(skip):
            return
        share, inverse_dim = 1 - self.beta, 1 / gradient.shape[1]
        decay = 1 - learning_rate * self.weight_decay
        numbers = (learning_rate, self.beta, share, inverse_dim, self.eps, decay)
        if _natively("row_wise", rows, gradient, along, step=step, seed=seed, numbers=numbers):
            return
        store = _store(rows, learning_rate=learning_rate, step=step, seed=seed, skip=skip)
        centre, gradient = _widened(rows, gradient)
        _turn(gradient, along, centre)
        mean_square = _row_sums(gradient.square()).mul_(inverse_dim)
        square = rows.read("square") * self.beta + mean_square * share
        store("square", square)
        rate = (_root(square) + self.eps).reciprocal_().mul_(learning_rate)
        store("centre", centre * decay - gradient * rate)


Optimizer = SGD | AdamW | RowWise


def _natively(
    kind: Literal["sgd", "adamw", "row_wise"],
    rows: RowSlice,
    gradient: Tensor,
    along: Tensor | None,
    *,
    step: Tensor,
    seed: int,
    numbers: tuple[float, ...],
) -> bool:
    """Let compiled code do the update, where there is some for these rows."""
    if not gradient.is_cpu:
        return False
    tables = [rows.centre, *rows.state.values()]
    number = int(step)
    keys = [key_of(seed, ROUNDING, tensor, number) for tensor in range(len(tables))]
    operands = native.Operands(tables, keys, rows.first, gradient, along, rows.index, rows.numbers)
    return native.update(kind, operands, numbers)


def _widened(rows: RowSlice, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The centres and the gradient in the working dtype."""
    dtype = working_dtype(rows.centre.dtype)
    return rows.read("centre").to(dtype), gradient.to(dtype)


def _turn(gradient: Tensor, along: Tensor | None, centre: Tensor) -> None:
    """Take off the part along the row itself: the gradient through the row's normalisation."""
    if along is not None:
        gradient -= centre * along.unsqueeze(1)


def _root(value: Tensor) -> Tensor:
    """The square root, correctly rounded; MKL's of float32, which torch takes, sometimes is not."""
    return value.to(torch.float64).sqrt_().to(value.dtype)


def _row_sums(value: Tensor) -> Tensor:
    """[n, d] -> [n, 1] by folding the right half onto the left: one order of adding everywhere."""
    while (width := value.shape[1]) > 1:
        half = width // 2
        value[:, :half] += value[:, width - half :]
        value = value[:, : width - half]
    return value


def _store(
    rows: RowSlice, *, learning_rate: float, step: Tensor, seed: int, skip: Tensor
) -> Callable[[str, Tensor], None]:
    """A function that keeps new values of the tensor it is told."""
    names = ["centre", *rows.state]

    def keep(name: str, value: Tensor) -> None:
        if name == "centre" and learning_rate == 0:
            return
        kept = rows.centre if name == "centre" else rows.state[name]
        if kept.dtype.itemsize == 2:
            key = rounding_key(seed=seed, step=step, tensor=names.index(name))
            value = round_stochastically(value, kept.dtype, key=key, first_row=rows.number)
        rows.write(name, value if kept.is_cpu else torch.where(skip, rows.read(name), value))

    return keep


def _skipped_on_host(skip: Tensor) -> bool:
    """On a CPU reading `skip` waits for nothing; elsewhere the values are chosen on the device."""
    return skip.is_cpu and bool(skip)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} {value}; use a value in [0, 1)")


def _check_not_negative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} {value}; use 0 or more")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} {value}; use more than 0")
