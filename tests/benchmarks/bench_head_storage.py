"""What keeping rows in two bytes costs: how far they drift, and a toy's accuracy.

    python -m tests.benchmarks.bench_head_storage [--record] [--rows 64] [--steps 2000]

Drift: rows take small steps, and so do the same rows in float64; the angle between the two. Toy:
noisy points around directions, a small network, the share of fresh points whose own centre is the
nearest. Both with the rounding the head uses, and with rounding to the nearest.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sharded_fc import ShardedHead, optimizer
from sharded_fc.margins import ArcFace
from sharded_fc.native_build import SWITCH
from sharded_fc.optimizer import SGD
from sharded_fc.storage import Rows
from tests.benchmarks.heads import dtype, parser, show
from tests.benchmarks.record import Cell

DIM = 512
TURN = 0.2  # rad, what float64 rows turn by over all steps: each step is far below bfloat16's 2^-9
IDENTITIES, INPUTS, WIDTH, EMBEDDING, BATCH = 1000, 64, 128, 32, 128
NOISE = 0.1  # of each input; a direction's own are 1 / 8. Hard enough to miss a few in 100
FRESH = 4000
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Storage:
    """Dtypes of centres and momentum, and how values become theirs."""

    rows: str
    state: str
    nearest: bool = False

    @contextlib.contextmanager
    def rounding(self) -> Iterator[None]:
        """To the nearest where asked for, which the library does not offer."""
        if not self.nearest:
            yield
            return
        # The compiled update rounds by itself.
        with (
            mock.patch.object(optimizer, "round_stochastically", _round_to_nearest),
            mock.patch.dict(os.environ, {SWITCH: "0"}),
        ):
            yield


STORAGES = (
    Storage("float32", "float32"),
    Storage("float16", "float32"),
    Storage("float16", "bfloat16"),
    Storage("bfloat16", "float32"),
    Storage("bfloat16", "bfloat16"),
    Storage("float16", "float32", nearest=True),
    Storage("bfloat16", "float32", nearest=True),
    Storage("bfloat16", "bfloat16", nearest=True),
)


def drift(storage: Storage, *, rows: int, steps: int) -> float:
    """The mean angle between rows of this storage and of float64 after equal gradients, in rad."""
    rule = SGD(momentum=0.9, weight_decay=0.0)
    stored = _rows(rule, rows, storage.rows, storage.state)
    stored.ready(0, rows)
    exact = _rows(rule, rows, "float64", "float64")
    exact.ready(0, rows)
    exact.centre.copy_(stored.centre)
    generator = torch.Generator().manual_seed(0)
    onward = normalize(torch.randn(rows, DIM, generator=generator))
    length = torch.linalg.vector_norm(stored.centre.float(), dim=1, keepdim=True)
    # One part of each gradient goes one way, a second one every way; momentum makes ten of one.
    size = TURN * length / steps * (1 - rule.momentum)
    with storage.rounding():
        for step in range(steps):
            around = normalize(torch.randn(rows, DIM, generator=generator))
            gradient = (onward + around) * size
            for table, working in ((stored, torch.float32), (exact, torch.float64)):
                rule.update(
                    table.view(0, rows),
                    gradient.to(working, copy=True),
                    None,
                    learning_rate=1.0,
                    step=torch.tensor(step),
                    seed=0,
                    skip=torch.zeros((), dtype=torch.bool),
                )
    return float(_angle(stored.centre.double(), exact.centre).mean())


def toy_accuracy(storage: Storage, *, seed: int, steps: int) -> float:
    """The share of fresh points that lie nearest to their own centre."""
    torch.manual_seed(seed)
    direction = normalize(torch.randn(IDENTITIES, INPUTS))
    net = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, EMBEDDING))
    trained = torch.optim.Adam(net.parameters(), lr=1e-3)
    with storage.rounding():
        head = ShardedHead(
            IDENTITIES,
            EMBEDDING,
            margin=ArcFace(0.3),
            scale=32.0,
            learning_rate=0.1,
            weight_decay=5e-4,
            seed=seed,
            dtype=dtype(storage.rows),
            state_dtype=dtype(storage.state),
        )
        for _ in range(steps):
            face, label = _draw(direction, BATCH)
            trained.zero_grad()
            head(net(face), label).loss.backward()
            trained.step()
    centre = torch.cat([tensors["centre"] for _, tensors in head.rows()]).float()
    face, label = _draw(direction, FRESH)
    with torch.no_grad():
        nearest = (normalize(net(face)) @ normalize(centre).t()).argmax(1)
    return float((nearest == label).double().mean())


def _rows(rule: SGD, rows: int, centre: str, state: str) -> Rows:
    return Rows(
        0,
        rows,
        embedding_dim=DIM,
        state_widths=rule.state_widths(DIM),
        seed=0,
        device=torch.device("cpu"),
        dtype=dtype(centre),
        state_dtype=dtype(state),
    )


def _round_to_nearest(value: Tensor, to: torch.dtype, *, key: object, first_row: int) -> Tensor:
    return value.to(to)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """In rad, exact for small angles, where arccos is not."""
    return 2 * torch.asin(torch.linalg.vector_norm(normalize(one) - normalize(other), dim=1) / 2)


def _draw(direction: Tensor, count: int) -> tuple[Tensor, Tensor]:
    label = torch.randint(IDENTITIES, (count,))
    return direction[label] + NOISE * torch.randn(count, INPUTS), label


def main() -> None:
    """Measure, and record if asked."""
    options = parser(__doc__, rows=64, steps=2000, toy_steps=600).parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Cell]] = []
    for storage in STORAGES:
        accuracies = [toy_accuracy(storage, seed=s, steps=options.toy_steps) for s in SEEDS]
        rows.append(
            {
                "centres": storage.rows,
                "momentum": storage.state,
                "rounding": "to nearest" if storage.nearest else "as built",
                "drift, rad": drift(storage, rows=options.rows, steps=options.steps),
                "toy accuracy %": f"{100 * mean(accuracies):.1f}",
                "lowest to highest": f"{100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}",
            }
        )
    notes = [
        f"drift: the mean angle of {options.rows} rows of {DIM} to the same in float64 after"
        f" {options.steps:,} small steps, in which those turn by about {TURN} rad",
        f"toy: {IDENTITIES:,} directions in {INPUTS} dimensions, {options.toy_steps} steps of"
        f" {BATCH}, {len(SEEDS)} seeds; {FRESH:,} fresh points, so 1 % is more than their noise",
    ]
    show("head_storage", rows, notes, options)


if __name__ == "__main__":
    main()
