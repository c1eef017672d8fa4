"""The rows of a partition that a step visits, as parts of a pass."""

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.catch_up import CatchUp
from sharded_fc.parts import Chosen, Weight
from sharded_fc.sampling.inclusion import most_on_rank
from sharded_fc.sampling.options import Sampling
from sharded_fc.storage import Rows


class Sampler:
    """Chooses for one rank, by counter: nothing is exchanged, nothing kept from step to step."""

    def __init__(
        self,
        sampling: Sampling,
        rows: Rows,
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
        self._buffer = rows.centre[:0]
        block = self._draw.block
        most_blocks = most_on_rank(
            self._draw.num_blocks,
            drawn=self._draw.drawn_blocks,
            own_classes=-(-self._stop // block) - self._start // block,
        )
        self.most_rows = sub_centres * max(64, most_blocks * block)  # a few positives at least
        """The rows that a chunk has any use for."""

    def parts(
        self, label: Int[Tensor, " batch"], *, step: Int[Tensor, ""], chunk: int
    ) -> tuple[Chosen, Chosen]:
        """The drawn classes of this partition; then those of the global batch's samples.

        A class of any sample is certain to be visited, so for all of them its term stands for
        itself alone.
        """
        positives = label[label >= 0].unique()
        drawn, rate = self._draw.of_step(step, positives, start=self._start, stop=self._stop)
        own = positives[(positives >= self._start) & (positives < self._stop)]
        rate = rate.clamp_min(torch.finfo(rate.dtype).tiny)  # 0 where nothing is drawn
        weight = Weight(term=-rate.log() if self._corrected else None, count=1.0 / rate)
        if len(self._buffer) != chunk:
            self._buffer = self._rows.centre.new_empty(chunk, self._rows.centre.shape[1])
        others = self._chosen(drawn, own=False, weight=weight)
        return others, self._chosen(own, own=True, weight=Weight())

    def _chosen(self, classes: Tensor, *, own: bool, weight: Weight) -> Chosen:
        return Chosen(
            classes,
            rows=self._rows,
            sub_centres=self._sub_centres,
            buffer=self._buffer,
            catch_up=self._catch_up,
            own=own,
            weight=weight,
        )
