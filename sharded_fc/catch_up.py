"""Brings rows that steps have passed by to where those steps would have moved them.

A step without a gradient multiplies (row, what the optimizer keeps for it) by a 2 x 2 matrix of
that step's learning rate, momentum and decay. A row that sat out some steps is multiplied by their
product when it is next read: the dense optimizer's result, at a sparse one's cost.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sharded_fc import native
from sharded_fc.counter import ROUNDING, key_of
from sharded_fc.optimizer import SGD, AdamW, Optimizer
from sharded_fc.partition import chunks
from sharded_fc.rounding import round_stochastically, rounding_key
from sharded_fc.step_products import StepProducts
from sharded_fc.storage import Rows, RowSlice, working_dtype
from sharded_fc.window import Window

_ROWS_AT_A_TIME = 4096
_OWN_CHANCES = 16  # rounding keys below it belong to the tables an optimizer keeps


def idle_step(optimizer: Optimizer, *, learning_rate: float) -> list[list[float]]:
    """What a step without a gradient makes of (row, state), as torch.optim does it.

    SGD's decay enters the momentum: m' = mu m + lambda w, w' = w - eta m'; with Nesterov's
    w' = w - eta (lambda w + mu m'). Row-wise, the scalar decays by beta and the row by
    1 - eta lambda.

    Raises:
        ValueError: for AdamW, whose eps makes the step no linear map.
    """
    if isinstance(optimizer, AdamW):
        raise ValueError(
            "optimizer 'adamw' with untouched='caught_up': eps in its denominator leaves no closed "
            "form of idle steps; use 'sgd', 'nesterov' or 'rowwise', or untouched='frozen'"
        )
    decay = learning_rate * optimizer.weight_decay
    if not isinstance(optimizer, SGD):
        return [[1.0 - decay, 0.0], [0.0, optimizer.beta]]
    mu = optimizer.momentum
    if not mu:
        return [[1.0 - decay, 0.0], [0.0, 1.0]]
    if optimizer.nesterov:
        first = [1.0 - decay * (1.0 + mu), -learning_rate * mu * mu]
    else:
        first = [1.0 - decay, -learning_rate * mu]
    return [first, [optimizer.weight_decay, mu]]


class CatchUp:
    """The steps each row of a partition has been through, and those it has missed.

    `ratios` are (first row, last row + 1, factor of the learning rate), counted within the
    partition, sorted and disjoint; rows of factor 0 stay as they are.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rows: Rows | Window,
        *,
        ratios: Sequence[tuple[int, int, float]],
        seed: int,
    ) -> None:
        idle_step(optimizer, learning_rate=0.0)  # refuses what has no such form
        self._optimizer = optimizer
        self._seed = seed
        self._rows = rows
        device = rows.centre.device
        self._factors = sorted({1.0, *(ratio for _, _, ratio in ratios)})
        self._edges = torch.tensor([x for a, b, _ in ratios for x in (a, b)], device=device)
        default = self._factors.index(1.0)
        groups = [x for *_, ratio in ratios for x in (default, self._factors.index(ratio))]
        self._groups = torch.tensor([*groups, default], device=device)
        self._buffers: dict[str, Tensor] = {}
        self._products = StepProducts(len(self._factors), device=device)
        if isinstance(rows, Window):
            self._reached = rows.counter
        else:
            self._reached = torch.zeros(len(rows), dtype=torch.int64, device=device)

    def on(self, window: Window) -> "CatchUp":
        """The same steps for the rows of a window, whose counters say how far each one is."""
        other = copy(self)
        other._rows, other._reached = window, window.counter
        return other

    def history(self) -> dict[str, Tensor]:
        """What of the past the rows may need, on the host."""
        return self._products.state()

    def remember(self, history: dict[str, Tensor]) -> None:
        """Take over what `history` gave, with the rows of the same moment."""
        self._products.load(history)

    def restart(self) -> None:
        """Begin anew with rows that have missed nothing."""
        self._products.clear()
        self._reached.zero_()

    def centres(self, index: Int[Tensor, " n"], *, step: Int[Tensor, ""]) -> Float[Tensor, "n dim"]:
        """The rows' centres as `bring` would leave them; `step` counts the head's steps so far.

        Valid until the next call.
        """
        matrix, rows = self._missed(index), self._rows.at(index)
        to = self._buffer("present", len(index), rows.centre)
        if self._natively(rows, matrix, step, to=to):
            return to
        return self._present(rows, matrix, step, states=False)["centre"]

    def bring(
        self, index: Int[Tensor, " n"], *, step: Int[Tensor, ""], skip: Bool[Tensor, ""]
    ) -> None:
        """Bring rows and what is kept for them to the present, unless `skip`.

        `step()` has to follow, which remembers that they are.
        """
        if skip.is_cpu and bool(skip):
            return
        matrix, rows = self._missed(index), self._rows.at(index)
        if skip.is_cpu and self._natively(rows, matrix, step, to=None):
            return
        for name, value in self._present(rows, matrix, step, states=True).items():
            rows.write(name, value if skip.is_cpu else torch.where(skip, rows.read(name), value))

    def step(
        self, visited: Sequence[Int[Tensor, " _"]], *, learning_rate: float, skip: Bool[Tensor, ""]
    ) -> None:
        """Remember a step that moved the rows `visited`; nothing where it was skipped."""
        matrices = [
            [[1.0, 0.0], [0.0, 1.0]]
            if factor == 0
            else idle_step(self._optimizer, learning_rate=learning_rate * factor)
            for factor in self._factors
        ]
        self._products.append(torch.tensor(matrices, dtype=torch.float64), keep=~skip)
        for index in visited:
            reached = torch.where(skip, self._reached[index], self._products.count)
            self._reached[index] = reached

    def finish(self, *, step: Int[Tensor, ""]) -> None:
        """Bring all rows to the present, so that nothing of the past is needed any more."""
        if self._products.most:
            self.bring_all(step=step)
            self.restart()

    def bring_all(self, *, step: Int[Tensor, ""]) -> None:
        """Bring all rows to the present, to be looked at: `step` does not remember that."""
        if not self._products.most:
            return
        device = self._reached.device
        go = torch.zeros((), dtype=torch.bool, device=device)
        for start, stop in chunks(len(self._reached), _ROWS_AT_A_TIME):
            self._rows.ready(start, stop)
            self.bring(torch.arange(start, stop, device=device), step=step, skip=go)

    def _natively(self, rows: RowSlice, matrix: Tensor, step: Tensor, *, to: Tensor | None) -> bool:
        """Let compiled code do what `_present` does, where there is some for these rows."""
        if rows.index is None or not rows.centre.is_cpu:
            return False
        tables, number = [rows.centre, *rows.state.values()], int(step)
        keys = [
            key_of(self._seed, ROUNDING, _OWN_CHANCES + table, number)
            for table in range(len(tables))
        ]
        return native.catch_up(
            tables,
            keys,
            first_row=rows.first,
            index=rows.index,
            numbers=rows.numbers,
            matrix=matrix,
            to=to,
        )

    def _present(
        self, rows: RowSlice, matrix: Tensor, step: Tensor, *, states: bool
    ) -> dict[str, Tensor]:
        """Each table's rows after the steps they missed, rounded as they are kept."""
        index = rows.index
        assert index is not None
        centre = self._read("centre", rows.centre, index)
        found = {"centre": centre}
        for name, table in rows.state.items():  # at most one
            state = self._read(name, table, index)
            before = self._buffer("before", len(index), centre).copy_(centre)
            centre.mul_(matrix[:, 0, :1])
            if state.shape == centre.shape:
                centre.add_(state * matrix[:, 0, 1:])  # each rounded, as compiled code does
            if states:
                found[name] = state.mul_(matrix[:, 1, 1:])
                if state.shape == centre.shape:
                    state.add_(before * matrix[:, 1, :1])
        if not rows.state:
            centre.mul_(matrix[:, 0, :1])
        for number, (name, value) in enumerate(found.items()):
            kept = rows.centre if name == "centre" else rows.state[name]
            if kept.dtype.itemsize == 2:
                # Other chances than those of the step to come, which rounds the same tensors.
                key = rounding_key(seed=self._seed, step=step, tensor=_OWN_CHANCES + number)
                found[name] = round_stochastically(
                    value, kept.dtype, key=key, first_row=rows.number
                )
        return found

    def _read(self, name: str, table: Tensor, index: Tensor) -> Tensor:
        """Rows of a table in the working dtype, in a buffer of that name."""
        kept = self._buffer(f"{name} as kept", len(index), table)
        torch.index_select(table, 0, index, out=kept)
        dtype = working_dtype(self._rows.centre.dtype)
        return kept if kept.dtype == dtype else kept.to(dtype)

    def _buffer(self, name: str, count: int, like: Tensor) -> Tensor:
        """Room for so many rows like those of another tensor, kept from call to call."""
        found = self._buffers.get(name)
        if found is None or len(found) < count:
            found = self._buffers[name] = like.new_empty(count, like.shape[1])
        return found[:count]

    def _missed(self, index: Tensor) -> Float[Tensor, "n 2 2"]:
        """The product of the steps that each row missed, in the working dtype."""
        if not len(self._edges):
            group = torch.zeros_like(index)
        else:
            number = self._rows.numbers(index)
            group = self._groups[torch.searchsorted(self._edges, number, right=True)]
        product = self._products.since(self._reached[index], group)
        return product.to(working_dtype(self._rows.centre.dtype))
