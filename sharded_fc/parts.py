"""The rows a pass goes through: all of a partition in place, or some of them, gathered.

A part looks like a small table of its own: samples' classes and ranges are counted in its order,
so that what works on chunks knows nothing of sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import native_tile
from sharded_fc.catch_up import CatchUp
from sharded_fc.storage import Rows, RowSlice
from sharded_fc.tile import CONFLICTS, SIGMOIDS, TOTAL, Rules, Weights
from sharded_fc.window import Window

Ratios = Sequence[tuple[int, int, float]]
"""(first row, last row + 1, factor of the learning rate), sorted and disjoint."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """How many classes a negative of a part stands for: in the loss, and where they are counted."""

    term: float = 1.0
    count: float = 1.0


def weigh_sums(measures: Float[Tensor, "measures batch"], weight: Weight) -> None:
    """Multiply what one part's negatives added to `measures`, which were empty before it."""
    if weight.term != 1.0:
        measures[[TOTAL, SIGMOIDS]] *= weight.term
    if weight.count != 1.0:
        measures[CONFLICTS] *= weight.count


def weigh_gradients(weights: Weights, weight: Weight, *, sigmoid: bool) -> Weights:
    """Weights that multiply the gradients of one part's negatives in the same way."""
    if weight.term == 1.0:
        return weights
    offset = weights.offset
    moved = offset * weight.term if sigmoid else offset + math.log(weight.term)
    return replace(weights, offset=moved)


@dataclass(frozen=True)
class Whole:
    """All rows of a partition, read and written where they are."""

    rows: Rows
    sub_centres: int
    weight: Weight = field(default_factory=Weight)
    catch_up: None = None
    gathered: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def table(self) -> Tensor:
        """What chunks are read from, for its dtype, width and device."""
        return self.rows.centre

    @property
    def index(self) -> Int[Tensor, " rows"]:
        """The rows, counted within the partition."""
        return torch.arange(len(self), device=self.rows.centre.device)

    def rules(self, rules: Rules) -> Rules:
        """Rules whose classes are counted in the part's order; -1 where a label is not in it."""
        first = self.rows.start // self.sub_centres
        number = len(self) // self.sub_centres
        label, ranges = rules.label, rules.class_range
        if label is not None:
            place = label - first
            here = (label >= 0) & (place >= 0) & (place < number)
            label = torch.where(here, place, -1)
        return replace(rules, label=label, class_range=None if ranges is None else ranges - first)

    def ratios(self, ratios: Ratios) -> Ratios:
        """The same ranges of rows in the part's order."""
        return ratios

    def centre(self, start: int, stop: int, *, step: Int[Tensor, ""]) -> Float[Tensor, "rows dim"]:
        """Rows to be read; `step` counts the head's steps so far."""
        self.rows.ready(start, stop)
        return self.rows.centre[start:stop]

    def open(self, start: int, stop: int, *, step: Int[Tensor, ""], skip: Tensor) -> RowSlice:
        """Rows to be changed where they are, unless `skip`."""
        return self.rows.view(start, stop)

    def kept(self, start: int, stop: int) -> Float[Tensor, "rows dim"]:
        """Opened rows to be read."""
        return self.rows.centre[start:stop]

    def measure(
        self, start: int, stop: int, inverse: Tensor, *, shortest: float, to: Tensor
    ) -> bool:
        """Read rows into an operand and measure them in one pass; False if that is not done."""
        return False

    def round(self, start: int, stop: int, *, to: Tensor) -> bool:
        """Read opened rows into an operand in one pass; False if that is not done."""
        return False


class Chosen:
    """The rows of some classes, read into a buffer and changed where they are."""

    def __init__(
        self,
        classes: Int[Tensor, " chosen"],
        *,
        rows: Rows | Window,
        sub_centres: int,
        buffer: Float[Tensor, "chunk dim"],
        catch_up: CatchUp | None,
        own: bool,
        weight: Weight,
    ) -> None:
        """`classes` are global numbers of this partition, ascending; `own`: samples' may be in.

        `rows` has all of theirs, and `catch_up` goes with `rows`.
        """
        self.weight = weight
        self.table = buffer
        self.rows = rows
        self.catch_up = catch_up
        self.gathered = buffer.is_cpu and catch_up is None
        """Whether `measure` may read rows from here and there into one operand."""
        self._classes = classes
        self._own = own
        inside = torch.arange(sub_centres, device=classes.device)
        self._number = (classes.unsqueeze(1) * sub_centres + inside).flatten() - rows.start
        self.index = rows.places(self._number)
        """Where their rows lie in `rows`."""

    def __len__(self) -> int:
        return len(self.index)

    def rules(self, rules: Rules) -> Rules:
        """See `Whole`."""
        label, ranges = rules.label, rules.class_range
        if label is not None and not (self._own and len(self)):
            label = torch.full_like(label, -1)
        elif label is not None:
            place = torch.searchsorted(self._classes, label)
            found = self._classes[place.clamp(max=len(self._classes) - 1)]
            label = torch.where(found == label, place, -1)
        if ranges is not None:
            ranges = torch.searchsorted(self._classes, ranges)
        return replace(rules, label=label, class_range=ranges)

    def ratios(self, ratios: Ratios) -> Ratios:
        """See `Whole`."""
        if not ratios:
            return ratios
        edges = torch.tensor([edge for ratio in ratios for edge in ratio[:2]])
        place = torch.searchsorted(self._number, edges.to(self._number.device)).tolist()
        pairs = zip(place[::2], place[1::2], ratios, strict=True)
        return [(first, last, factor) for first, last, (_, _, factor) in pairs]

    def centre(self, start: int, stop: int, *, step: Int[Tensor, ""]) -> Float[Tensor, "rows dim"]:
        """See `Whole`; valid until the next call."""
        index = self.index[start:stop]
        if self.catch_up is not None:
            return self.catch_up.centres(index, step=step)
        return self.kept(start, stop)

    def open(self, start: int, stop: int, *, step: Int[Tensor, ""], skip: Tensor) -> RowSlice:
        """See `Whole`; brought to the present."""
        index = self.index[start:stop]
        if self.catch_up is not None:
            self.catch_up.bring(index, step=step, skip=skip)
        return self.rows.at(index)

    def kept(self, start: int, stop: int) -> Float[Tensor, "rows dim"]:
        """See `Whole`; valid until the next call."""
        index = self.index[start:stop]
        return torch.index_select(self.rows.centre, 0, index, out=self.table[: len(index)])

    def measure(
        self, start: int, stop: int, inverse: Tensor, *, shortest: float, to: Tensor
    ) -> bool:
        """See `Whole`."""
        index = self.index[start:stop]
        return self.catch_up is None and native_tile.measure_rows(
            self.rows.centre, inverse, shortest=shortest, index=index, copy=to
        )

    def round(self, start: int, stop: int, *, to: Tensor) -> bool:
        """See `Whole`."""
        return native_tile.copy_rows(self.rows.centre, to=to, index=self.index[start:stop])


Part = Whole | Chosen
