"""The heads that benchmarks compare, made from a few words and stepped in the same way.

A `Candidate` says which head, in which dtypes; `make` gives a function that takes one step. All
begin at the same centres and train with the same numbers.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sharded_fc import ShardedHead
from sharded_fc.initial import initial_rows
from sharded_fc.margins import ArcFace
from sharded_fc.native_build import SWITCH
from tests.benchmarks.baseline import PublicHead
from tests.benchmarks.record import Cell, record, text

MARGIN = ArcFace(0.5, gradient="straight_through")  # as public code trains
SCALE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 64.0, 0.1, 0.9, 5e-4
BATCHES = 8

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A head; dtypes by their names in torch, `native` where its compiled code may be used."""

    kind: Literal["dense", "sharded"] = "sharded"
    operands: str = "float32"
    rows: str = "float32"
    state: str = "float32"
    native: bool = True

    @property
    def name(self) -> str:
        """What tables call it."""
        words = [self.kind, self.operands]
        if (self.rows, self.state) != ("float32", "float32"):
            words.append(f"rows {self.rows}, momentum {self.state}")
        if not self.native:
            words.append("torch only")
        return ", ".join([" ".join(words[:2]), *words[2:]])


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a problem is."""

    classes: int
    dim: int
    batch: int

    def row_bytes(self, candidate: Candidate) -> int:
        """Centres and momentum, which no head can do without."""
        items = dtype(candidate.rows).itemsize + dtype(candidate.state).itemsize
        return self.classes * self.dim * items


DENSE = Candidate(kind="dense")
DENSE_LOW = Candidate(kind="dense", operands="bfloat16")
SHARDED = Candidate()
SHARDED_LOW = Candidate(operands="bfloat16")
TWO_BYTE_ROWS = (
    Candidate(operands="bfloat16", rows="bfloat16", state="bfloat16"),
    Candidate(operands="bfloat16", rows="float16", state="bfloat16"),
    Candidate(operands="bfloat16", rows="float16", state="float32"),
)


@dataclass(frozen=True)
class Made:
    """A head ready to train: one step (loss, embedding gradient), and a copy of its centres."""

    step: Step
    centre: Callable[[], Tensor]


def make(candidate: Candidate, size: Size) -> Made:
    """The head of a candidate."""
    os.environ[SWITCH] = "1" if candidate.native else "0"
    if candidate.kind == "dense":
        rows = initial_rows(
            0, size.classes, embedding_dim=size.dim, seed=0, device=torch.device("cpu")
        )
        public = PublicHead(
            rows,
            margin_rad=MARGIN.margin,
            scale=SCALE,
            learning_rate=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            operands=dtype(candidate.operands),
        )
        return Made(public.step, lambda: public.centre.detach().clone())
    head = ShardedHead(
        size.classes,
        size.dim,
        margin=MARGIN,
        scale=SCALE,
        learning_rate=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        compute_dtype=dtype(candidate.operands),
        dtype=dtype(candidate.rows),
        state_dtype=dtype(candidate.state),
    )

    def step(embedding: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        os.environ[SWITCH] = "1" if candidate.native else "0"
        leaf = embedding.detach().requires_grad_()
        loss = head(leaf, label).loss
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    return Made(step, lambda: torch.cat([tensors["centre"] for _, tensors in head.rows()]))


def batches(size: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """A few drawn batches, over and over: (embedding, label)."""
    generator = torch.Generator().manual_seed(1)
    drawn = [
        (
            torch.randn(size.batch, size.dim, generator=generator),
            torch.randint(size.classes, (size.batch,), generator=generator),
        )
        for _ in range(BATCHES)
    ]
    return cycle(drawn)


def timed_steps(made: Made, size: Size, *, warm: int = 2) -> Callable[[], float]:
    """A function that takes a step and tells its seconds; `warm` steps are taken at once."""
    data = batches(size)

    def seconds() -> float:
        embedding, label = next(data)
        began = time.perf_counter()
        made.step(embedding, label)
        return time.perf_counter() - began

    for _ in range(warm):  # the first one writes the rows' first values
        seconds()
    return seconds


def dtype(name: str) -> torch.dtype:
    """A dtype by its name."""
    return getattr(torch, name)


def parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """The flags that these benchmarks share, and one for each number with its default."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--record", action="store_true", help="keep the figures in results/")
    for name, default in {"threads": 2, **numbers}.items():
        made.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help=f"{default} if not given"
        )
    return made


def show(
    name: str,
    rows: Sequence[Mapping[str, Cell]],
    notes: Sequence[str],
    options: argparse.Namespace,
) -> Path | None:
    """Print the figures and, if asked, keep them; where they are kept."""
    for row in rows:
        print(", ".join(f"{column} {text(cell)}" for column, cell in row.items()))
    for note in notes:
        print(note)
    if not options.record:
        return None
    command = f"python -m tests.benchmarks.bench_{name} {' '.join(sys.argv[1:])}"
    return record(name, rows, command=command, notes=[f"threads: {options.threads}", *notes])
