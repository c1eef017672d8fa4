"""The rows of a partition that a step visits, as parts of a pass."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc import huge_pages
from sharded_fc.catch_up import CatchUp
from sharded_fc.outside import OutsideRows
from sharded_fc.parts import Chosen, Weight
from sharded_fc.sampling.inclusion import most_on_rank
from sharded_fc.sampling.options import Sampling
from sharded_fc.storage import Rows
from sharded_fc.window import Window


@dataclass(frozen=True)
class Choice:
    """A step's classes in a partition, ascending: those drawn, and those of samples."""

    step: Int[Tensor, ""]
    positives: Int[Tensor, " positives"]
    """Of all partitions."""
    drawn: Int[Tensor, " drawn"]
    own: Int[Tensor, " own"]
    rate: float
    """The probability of each drawn one to be drawn."""

    def answers(self, step: Tensor, positives: Tensor) -> bool:
        """Whether it is the choice for this step and these samples' classes."""
        return torch.equal(self.step, step) and torch.equal(self.positives, positives)


class Sampler:
    """Chooses for one rank, by counter: nothing is exchanged.

    Rows outside the device are taken there; where the next step's labels are known, its classes are
    chosen one step early, so that their rows can be read.
    """

    def __init__(
        self,
        sampling: Sampling,
        rows: Rows | OutsideRows,
        *,
        num_classes: int,
        sub_centres: int,
        seed: int,
        catch_up: CatchUp | None,
    ) -> None:
        self._rows = rows
        self._sub_centres = sub_centres
        self._start = rows.start // sub_centres
        self._stop = rows.stop // sub_centres
        self._corrected = sampling.correction == "logq"
        self._draw = sampling.draw(num_classes, seed=seed)
        self._catch_up = catch_up
        self._buffer = torch.empty(0, rows.width, dtype=rows.dtype, device=rows.device)
        self._num_classes = num_classes
        self._ahead: Choice | None = None
        block = self._draw.block
        most_blocks = most_on_rank(
            self._draw.num_blocks,
            drawn=self._draw.drawn_blocks,
            own_classes=-(-self._stop // block) - self._start // block,
        )
        self.most_rows = sub_centres * max(64, most_blocks * block)  # a few positives at least
        """The rows that a chunk has any use for."""

    def parts(
        self,
        label: Int[Tensor, " batch"],
        *,
        step: Int[Tensor, ""],
        chunk: int,
        next_label: Int[Tensor, " next"] | None = None,
    ) -> tuple[Chosen, Chosen]:
        """The drawn classes of this partition; then those of the global batch's samples.

        A class of any sample is certain to be visited, so for all of them its term stands for
        itself alone. `next_label` are the labels of the next global batch.
        """
        choice = self._choose(label, step)
        rows, catch_up = self._rows, self._catch_up
        if isinstance(rows, OutsideRows):
            rows = self._take(rows, choice, next_label)
            catch_up = None if catch_up is None else catch_up.on(rows)
        share = 1.0 / choice.rate if choice.rate else 1.0  # at a rate of 0 nothing is drawn
        weight = Weight(term=share if self._corrected else 1.0, count=share)
        if len(self._buffer) != chunk:
            self._buffer = huge_pages.empty(
                chunk, self._rows.width, dtype=self._rows.dtype, device=self._rows.device
            )

        def chosen(classes: Tensor, *, own: bool, weight: Weight) -> Chosen:
            return Chosen(
                classes,
                rows=rows,
                sub_centres=self._sub_centres,
                buffer=self._buffer,
                catch_up=catch_up,
                own=own,
                weight=weight,
            )

        others = chosen(choice.drawn, own=False, weight=weight)
        return others, chosen(choice.own, own=True, weight=Weight())

    def _choose(self, label: Tensor, step: Tensor) -> Choice:
        positives = label[(label >= 0) & (label < self._num_classes)].unique()
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.answers(step, positives):
            return ahead
        drawn, rate = self._draw.of_step(step, positives, start=self._start, stop=self._stop)
        own = positives[(positives >= self._start) & (positives < self._stop)]
        return Choice(step.clone(), positives, drawn, own, rate)

    def _take(self, rows: OutsideRows, choice: Choice, next_label: Tensor | None) -> Window:
        """The chosen rows, while the next step's begin to be read."""
        window = rows.take(self._rows_of(choice))
        if next_label is not None:
            self._ahead = self._choose(next_label.to(rows.device), choice.step + 1)
            rows.expect(self._rows_of(self._ahead))
        return window

    def _rows_of(self, choice: Choice) -> Int[Tensor, " rows"]:
        """All chosen rows, ascending, counted within the partition; one at least."""
        classes = _merged(choice.drawn, choice.own)
        if not len(classes):
            classes = torch.full((1,), self._start, device=classes.device)
        inside = torch.arange(self._sub_centres, device=classes.device)
        rows = (classes.unsqueeze(1) * self._sub_centres + inside).flatten()
        return rows - self._start * self._sub_centres


def _merged(classes: Tensor, others: Tensor) -> Tensor:
    """Both, ascending as they are and without one in common, in one; no sort."""
    merged = classes.new_empty(len(classes) + len(others))
    place = torch.searchsorted(classes, others) + torch.arange(len(others), device=classes.device)
    rest = torch.ones_like(merged, dtype=torch.bool)
    rest[place] = False
    merged[place] = others
    merged[rest] = classes
    return merged
