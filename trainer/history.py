"""What each step did: kept on the device until the next log interval, then one record a step.

The ranks talk here once an interval: they put together the digests of the samples they read, how
many bad ones they met, and whether anybody asked to stop, so that all of them stop at one step.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.plan import share
from trainer.step import StepOutcome, read_numbers
from trainer.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The steps since the last flush."""

    records: list[dict[str, Any]]
    """One a step, with the fields of `history.jsonl`; equal on every rank but for `seconds`."""
    stop: bool
    """Some rank was asked to stop."""
    new_bad_samples: int
    """Bad samples that all ranks together met."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    number: int
    learning_rate: float
    outcome: StepOutcome
    digests: list[int]
    data_wait_s: float
    total_s: float
    ended: float


@dataclass(kw_only=True)
class History:
    """Collects steps without waiting for the device; `flush` waits once."""

    topology: Topology
    micro_batches: int
    batch_size: int
    samples_an_epoch: int
    attempt: int
    _steps: list[_Step] = field(default_factory=list)

    def add(
        self,
        outcome: StepOutcome,
        *,
        step: int,
        learning_rate: float,
        digests: Sequence[int],
        data_wait_s: float,
        total_s: float,
    ) -> None:
        """Note step `step` (the first is 1) with the digests of this rank's micro-batches."""
        self._steps.append(
            _Step(
                number=step,
                learning_rate=learning_rate,
                outcome=outcome,
                digests=list(digests),
                data_wait_s=data_wait_s,
                total_s=total_s,
                ended=time.time(),
            )
        )

    def flush(self, *, stop: bool, bad_samples: int) -> Interval:
        """Read the interval's numbers off the device and agree with the other ranks.

        Collectives: one all-gather of digests, stop flag and count of bad samples.
        """
        flags, digests = self._gather([int(stop), bad_samples])
        steps, self._steps = self._steps, []
        values = read_numbers([step.outcome for step in steps])  # the interval's only wait
        return Interval(
            records=[
                self._record(step, numbers, micro)
                for step, numbers, micro in zip(steps, values, digests, strict=True)
            ],
            stop=any(rank[0] for rank in flags),
            new_bad_samples=sum(rank[1] for rank in flags),
        )

    def _record(self, step: _Step, values: dict[str, float], digests: list[int]) -> dict[str, Any]:
        samples_seen = step.number * self.batch_size
        stayed = {"head": not values.pop("committed"), "backbone": bool(values.pop("skipped"))}
        used_maximum = bool(values.pop("used_maximum"))
        of_margin = [name for name in values if name.startswith("margin.")]
        margin = {name.removeprefix("margin."): values.pop(name) for name in of_margin}
        return {
            "step": step.number,
            "epoch": samples_seen / self.samples_an_epoch,
            "samples_seen": samples_seen,
            **values,
            "margin": margin,
            "used_maximum": used_maximum,
            "skipped": [part for part, still in stayed.items() if still],
            "learning_rate": step.learning_rate,
            "samples": combine(digests),
            "seconds": {
                "data_wait": step.data_wait_s,
                **step.outcome.seconds(),
                "total": step.total_s,
            },
            "images_per_second": self.batch_size / step.total_s,
            "time": step.ended,
            "attempt": self.attempt,
        }

    def _gather(self, flags: list[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Flags by rank, and by step the digests of all micro-batches in their order."""
        world = self.topology.world_size
        widest = -(-self.micro_batches // world)
        mine = torch.zeros(len(flags) + len(self._steps) * widest, dtype=torch.int64)
        mine[: len(flags)] = torch.tensor(flags)
        for index, step in enumerate(self._steps):
            start = len(flags) + index * widest
            for place, digest in enumerate(step.digests):
                mine[start + place] = _signed(digest)
        mine = mine.to(self.topology.device)
        gathered = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(gathered, mine, group=self.topology.group)
        rows = [row.tolist() for row in gathered]
        shares = [len(share(self.micro_batches, r, world)) for r in range(world)]
        digests = [
            [
                rows[r][len(flags) + index * widest + place]
                for r in range(world)
                for place in range(shares[r])
            ]
            for index in range(len(self._steps))
        ]
        return [row[: len(flags)] for row in rows], digests


def combine(digests: Sequence[int]) -> str:
    """One digest of a step's samples in their order, 16 hex digits; the same at any world size."""
    data = b"".join((digest % 2**64).to_bytes(8, "little") for digest in digests)
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _signed(digest: int) -> int:
    """The 64-bit number as torch's int64 holds it."""
    return (digest + 2**63) % 2**64 - 2**63
