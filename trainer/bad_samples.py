"""The bad samples of a run: known to every rank, kept in checkpoints, bounded by a budget.

A rank notes what its loader replaced; once a log interval, if any rank met a new one, the ranks put
them together. A resumed run starts from the list, so it replaces the same samples by the same ones.
"""

from collections import Counter
from collections.abc import Mapping
from typing import get_args

import torch
import torch.distributed as dist

from data_pipeline.shards import Reason
from trainer.errors import RunError
from trainer.topology import Topology

REASONS: tuple[Reason, ...] = get_args(Reason)


class BadSamples:
    """Samples that cannot be read, with the reason of each."""

    def __init__(self, *, topology: Topology, budget: int) -> None:
        self.topology, self.budget = topology, budget
        self.known: dict[int, str] = {}
        self._new: dict[int, str] = {}

    @property
    def num_new(self) -> int:
        """Bad samples that this rank met since the last `share`."""
        return len(self._new)

    def add(self, found: Mapping[int, str]) -> None:
        """Note what this rank's loader replaced in a step."""
        self._new.update(found)

    def new_by_reason(self) -> Counter[str]:
        """This rank's new ones, counted."""
        return Counter(self._new.values())

    def share(self) -> None:
        """Make every rank know every bad sample; all ranks call it together.

        Collectives: all-gather of counts, all-gather of (sample, reason).

        Raises:
            RunError: together there are more than the budget; names the first of them.
        """
        device, group, world = self.topology.device, self.topology.group, self.topology.world_size
        count = torch.tensor([len(self._new)], device=device)
        counts = [torch.zeros_like(count) for _ in range(world)]
        dist.all_gather(counts, count, group=group)
        widest = max(int(c) for c in counts)
        mine = torch.zeros(widest, 2, dtype=torch.int64, device=device)
        for row, (sample, reason) in enumerate(self._new.items()):
            mine[row] = torch.tensor([sample, REASONS.index(reason)])
        gathered = [torch.zeros_like(mine) for _ in range(world)]
        dist.all_gather(gathered, mine, group=group)
        for rows, length in zip(gathered, counts, strict=True):
            for sample, reason in rows[: int(length)].tolist():
                self.known[sample] = REASONS[reason]
        self._new.clear()
        self._check_budget()

    def _check_budget(self) -> None:
        if len(self.known) <= self.budget:
            return
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(self.known.values()).items())
        first = ", ".join(str(sample) for sample in sorted(self.known)[:10])
        raise RunError(
            f"{len(self.known)} samples cannot be read ({reasons}; the first: {first}), more than"
            f" data.bad_sample_budget = {self.budget}; mend the dataset or raise the budget"
        )

    def for_checkpoint(self) -> dict[str, str]:
        """What a checkpoint keeps; JSON has only text as keys."""
        return {str(sample): reason for sample, reason in sorted(self.known.items())}

    def restore(self, kept: Mapping[str, str]) -> None:
        """Take over what a checkpoint kept."""
        self.known = {int(sample): reason for sample, reason in kept.items()}
