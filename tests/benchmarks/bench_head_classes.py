"""Time and memory over the number of classes, of the head and the dense one: a table and a plot.

    python -m tests.benchmarks.bench_head_classes [--record] [--batch 256]

The dense head is left out where it would not fit the memory that is free.
"""

import re
import statistics
from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.heads import (
    DENSE,
    DENSE_LOW,
    SHARDED,
    SHARDED_LOW,
    Size,
    make,
    parser,
    show,
    timed_steps,
)
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.plot import Curve, Panel, plot
from tests.benchmarks.record import Cell, interleaved

CANDIDATES = (DENSE, DENSE_LOW, SHARDED, SHARDED_LOW)
CLASSES = (10_000, 30_000, 100_000, 300_000)


def measure(size: Size, *, repeats: int, threads: int) -> list[dict[str, Cell]]:
    """One row for each number of classes and head that fits."""
    fitting = [c for c in CANDIDATES if c.kind == "sharded" or _dense_bytes(size) < _free_bytes()]
    timed = interleaved({c.name: timed_steps(make(c, size), size) for c in fitting}, repeats)
    return [
        {
            "classes": size.classes,
            "head": candidate.name,
            "median s": statistics.median(timed[candidate.name]),
            "peak MB": round(peak_bytes(candidate, size, threads=threads) / 1e6),
            "rows MB": round(size.row_bytes(candidate) / 1e6),
        }
        for candidate in fitting
    ]


def drawn(rows: list[dict[str, Cell]]) -> str:
    """The table as two panels side by side."""

    def panel(title: str, column: str, unit: float) -> Panel:
        return Panel(
            title=title,
            curves=[
                Curve(
                    name=candidate.name,
                    points=[
                        (float(row["classes"]), float(row[column]) * unit)
                        for row in rows
                        if row["head"] == candidate.name
                    ],
                    dashed=candidate.kind == "dense",
                )
                for candidate in CANDIDATES
            ],
        )

    return plot(
        [panel("seconds a step", "median s", 1.0), panel("peak memory, GB", "peak MB", 1e-3)],
        across="classes",
    )


def _dense_bytes(size: Size) -> int:
    """What two dense heads keep, and what a step of one of them adds at its peak."""
    kept = 2 * size.row_bytes(DENSE)
    return kept + size.row_bytes(DENSE) + 4 * size.classes * size.batch * 4


def _free_bytes() -> int:
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Measure, and record if asked."""
    options = parser(__doc__, classes=max(CLASSES), dim=512, batch=256, repeats=5).parse_args()
    torch.set_num_threads(options.threads)
    size = Size(classes=options.classes, dim=options.dim, batch=options.batch)
    rows: list[dict[str, Cell]] = []
    for classes in (*(c for c in CLASSES if c < options.classes), options.classes):
        rows += measure(
            replace(size, classes=classes), repeats=options.repeats, threads=options.threads
        )
    path = show("head_classes", rows, [], options)
    if path is not None:
        path.with_suffix(".svg").write_text(drawn(rows))


if __name__ == "__main__":
    main()
