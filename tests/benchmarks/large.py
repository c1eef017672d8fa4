"""One head of a large benchmark, in a process of its own: steps, a checkpoint, the highest memory.

    python -m tests.benchmarks.large '{"rows": "mapped", ...}'

Every head runs alone, since an allocator does not give back all it had.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch

from sharded_fc import ShardedHead
from sharded_fc.outside import Outside
from sharded_fc.sampling import Sampling
from tests.benchmarks.heads import (
    LEARNING_RATE,
    MARGIN,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Size,
    batches,
)
from tests.benchmarks.memory import resident_kb
from trainer.tensor_file import write_rows


@dataclass(frozen=True, kw_only=True)
class Case:
    """One head and how long to run it."""

    rows: str
    """`device`, `host` or `mapped`."""
    per_mille: int
    classes: int
    dim: int
    batch: int
    block: int
    untouched: str
    steps: int
    repeats: int
    threads: int
    folder: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return (
            f"{self.rows}, {'full' if self.per_mille == 1000 else f'rate {self.per_mille / 10}%'}"
        )

    @property
    def taken(self) -> int:
        """Classes of a step, nearly."""
        return self.classes * self.per_mille // 1000 + self.batch


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a case took; seconds, bytes."""

    first_s: float
    group_s: list[float]
    """A step's mean in each group of steps."""
    checkpoint_s: float
    peak: int
    disk: int
    """Of tables, after the checkpoint."""

    @property
    def step_s(self) -> float:
        """The median over groups."""
        return statistics.median(self.group_s)


def run_here(case: Case) -> Found:
    """The case, in this process."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    folder = Path(case.folder)
    head = make(case, folder / "tables")
    data = pairwise(batches(Size(classes=case.classes, dim=case.dim, batch=case.batch)))

    def step() -> None:
        (embedding, label), (_, next_label) = next(data)
        head(embedding.detach().requires_grad_(), label, next_label=next_label).loss.backward()

    first = seconds(step)
    groups = [
        seconds(lambda: [step() for _ in range(case.steps)]) / case.steps
        for _ in range(case.repeats)
    ]

    def save() -> None:
        if head.outside:
            head.checkpoint(1)
        else:
            write_rows(folder / "rows.safetensors", head.rows(), num_rows=case.classes)

    checkpoint = seconds(save)
    if head.outside:
        for _ in range(2):  # blocks of a step are kept before they are changed
            step()
    head.close()
    tables = (path.stat().st_blocks * 512 for path in (folder / "tables").rglob("*"))
    return Found(
        first_s=first,
        group_s=groups,
        checkpoint_s=checkpoint,
        peak=resident_kb("VmHWM") * 1024,
        disk=sum(tables),
    )


def make(case: Case, folder: Path) -> ShardedHead:
    """The head of a case."""
    sampling = outside = None
    if case.per_mille < 1000:
        sampling = Sampling(
            rate=case.per_mille / 1000,
            block=case.block,
            untouched="caught_up" if case.untouched == "caught_up" else "frozen",
        )
    if case.rows != "device":
        outside = Outside(kept_in="host" if case.rows == "host" else "mapped", folder=folder)
    return ShardedHead(
        case.classes,
        case.dim,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        compute_dtype=torch.bfloat16,
        dtype=torch.bfloat16,
        state_dtype=torch.bfloat16,
        sampling=sampling,
        outside=outside,
    )


def seconds(work: Callable[[], object]) -> float:
    """What some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(asdict(run_here(Case(**json.loads(sys.argv[1]))))))
