"""One step of the head beside the dense head of public code: time, memory, error.

    python -m tests.benchmarks.bench_head [--record] [--classes 100000] [--dim 512] [--batch 256]

A step is loss, embedding gradient and row update. Candidates take turns in one process; memory is
that of a process each; errors are those of the same configuration's first step. `dense bfloat16`
shows what precision alone gains, `torch only` what the compiled row update does.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from tests.benchmarks.errors import Errors
from tests.benchmarks.heads import (
    DENSE,
    DENSE_LOW,
    SHARDED,
    SHARDED_LOW,
    TWO_BYTE_ROWS,
    Candidate,
    Size,
    make,
    parser,
    show,
    timed_steps,
)
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.record import Cell, interleaved, met

CANDIDATES = (
    DENSE,
    DENSE_LOW,
    SHARDED,
    replace(SHARDED, native=False),
    SHARDED_LOW,
    replace(SHARDED_LOW, native=False),
    *TWO_BYTE_ROWS,
)
FLOAT32_TIME, BFLOAT16_TIME, EXTRA_MEMORY = 0.42, 0.25, 0.15  # wanted, of dense float32's


def compare(size: Size, *, repeats: int, threads: int) -> list[dict[str, Cell]]:
    """One row a candidate."""
    errors = Errors(size)
    found = {candidate.name: errors.of(candidate) for candidate in CANDIDATES}
    del errors
    timed = interleaved({c.name: timed_steps(make(c, size), size) for c in CANDIDATES}, repeats)
    peaks = {c.name: peak_bytes(c, size, threads=threads) for c in CANDIDATES}
    extra = {c.name: peaks[c.name] - size.row_bytes(c) for c in CANDIDATES}
    dense = statistics.median(timed[DENSE.name])
    dense_low = statistics.median(timed[DENSE_LOW.name])
    return [
        {
            "head": name,
            "median s": statistics.median(times),
            "best s": min(times),
            "of dense float32": statistics.median(times) / dense,
            "of dense bfloat16": statistics.median(times) / dense_low,
            "peak MB": round(peaks[name] / 1e6),
            "beyond rows MB": round(extra[name] / 1e6),
            "beyond, of dense's": extra[name] / extra[DENSE.name],
            **found[name],
        }
        for name, times in timed.items()
    ]


def verdicts(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """What was wanted, and whether it was reached."""
    by_name = {row["head"]: row for row in rows}

    def cell(candidate: Candidate, column: str) -> float:
        return float(by_name[candidate.name][column])

    time, beyond = "of dense float32", "beyond, of dense's"
    slowest = max(cell(c, "median s") for c in TWO_BYTE_ROWS) / cell(SHARDED_LOW, "median s")
    return [
        met("float32 step, of dense float32's time", cell(SHARDED, time), FLOAT32_TIME),
        met("bfloat16 step, of dense float32's time", cell(SHARDED_LOW, time), BFLOAT16_TIME),
        met(
            "memory beyond centres and momentum, of dense float32's",
            max(cell(SHARDED, beyond), cell(SHARDED_LOW, beyond)),
            EXTRA_MEMORY,
        ),
        met("the slowest two-byte rows, of float32 rows' time", slowest, 1.0),
    ]


def main() -> None:
    """Measure, and record if asked."""
    options = parser(__doc__, classes=100_000, dim=512, batch=256, repeats=7).parse_args()
    torch.set_num_threads(options.threads)
    size = Size(classes=options.classes, dim=options.dim, batch=options.batch)
    rows = compare(size, repeats=options.repeats, threads=options.threads)
    notes = [
        *verdicts(rows),
        "dense: the steps of public code (tests/benchmarks/baseline.py); public code itself took"
        " 1.66 s and 1.78 GB at 100,000 x 512, batch 256, on this kind of machine",
        "memory: peak less what the process had before the head was made",
        "errors: first step, to the dense head in float64; of gradients and centres the largest row"
        " of differences, relative to the longest row",
    ]
    show("head", rows, notes, options)


if __name__ == "__main__":
    main()
