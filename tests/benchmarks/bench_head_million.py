"""A step at a million classes beside the least it could take on this machine.

    python -m tests.benchmarks.bench_head_million [--record] [--classes 1000000] [--batch 64]

The least is four matrix products at the rate measured for these shapes, and two reads and one
write of the rows and one of each of the momentum at the rate of a copy. Rates and steps are
measured by turns in one run; memory in a process each; errors with the first `--truth` classes
only, for the dense head in float64 has to fit.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from tests.benchmarks.errors import Errors
from tests.benchmarks.heads import (
    SHARDED,
    SHARDED_LOW,
    TWO_BYTE_ROWS,
    Candidate,
    Size,
    dtype,
    make,
    parser,
    show,
    timed_steps,
)
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.rates import best_product_rate, copy_rate, product_seconds
from tests.benchmarks.record import Cell, interleaved, met

CANDIDATES = (SHARDED, SHARDED_LOW, *TWO_BYTE_ROWS)
OVER_LEAST, LOW_TIME, OVER_ROWS = 1.5, 0.65, 1.12  # wanted
OPERANDS = ("float32", "bfloat16")


def compare(options: argparse.Namespace, size: Size) -> tuple[list[dict[str, Cell]], list[str]]:
    """One row a candidate, and what else there is to say."""
    peaks = {c.name: peak_bytes(c, size, threads=options.threads) for c in CANDIDATES}
    errors = Errors(Size(classes=options.truth, dim=size.dim, batch=size.batch))
    found = {c.name: errors.of(c) for c in CANDIDATES}
    del errors
    work: dict[str, Callable[[], float]] = {"copy": copy_rate}
    for name in OPERANDS:
        shape = {"dim": size.dim, "batch": size.batch, "dtype": dtype(name)}
        work[f"products {name}"] = partial(product_seconds, **shape)
        work[f"best {name}"] = partial(best_product_rate, dtype(name))
    timed = interleaved(
        {**work, **{c.name: timed_steps(make(c, size), size) for c in CANDIDATES}},
        options.repeats,
    )
    middle = {name: statistics.median(values) for name, values in timed.items()}
    rows: list[dict[str, Cell]] = []
    for candidate in CANDIDATES:
        least = size.classes * middle[f"products {candidate.operands}"]
        least += moved_bytes(candidate, size) / middle["copy"]
        peak = peaks[candidate.name]
        rows.append(
            {
                "head": candidate.name,
                "median s": middle[candidate.name],
                "best s": min(timed[candidate.name]),
                "least s": least,
                "over least": middle[candidate.name] / least,
                "of float32 operands": middle[candidate.name] / middle[SHARDED.name],
                "peak MB": round(peak / 1e6),
                "peak over rows": peak / size.row_bytes(candidate),
                **found[candidate.name],
            }
        )
    notes = [
        met("float32 step over the least", float(rows[0]["over least"]), OVER_LEAST),
        met(
            "bfloat16 operands, of float32's time", float(rows[1]["of float32 operands"]), LOW_TIME
        ),
        met(
            "peak over centres and momentum, the worst",
            max(float(row["peak over rows"]) for row in rows),
            OVER_ROWS,
        ),
        f"a copy reads and writes {middle['copy'] / 1e9:.1f} GB/s together",
    ]
    for name in OPERANDS:
        rate = 8 * size.dim * size.batch / middle[f"products {name}"]
        notes.append(
            f"products of these shapes in {name}: {rate / 1e9:.0f} Gop/s,"
            f" {100 * rate / middle[f'best {name}']:.0f} % of a large square one's"
        )
    notes.append(f"errors: first step at {options.truth:,} classes, to the dense head in float64")
    return rows, notes


def moved_bytes(candidate: Candidate, size: Size) -> int:
    """Two reads and one write of the rows, one of each of the momentum."""
    row, state = dtype(candidate.rows).itemsize, dtype(candidate.state).itemsize
    return size.classes * size.dim * (3 * row + 2 * state)


def main() -> None:
    """Measure, and record if asked."""
    flags = parser(__doc__, classes=1_000_000, dim=512, batch=64, repeats=5, truth=50_000)
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    size = Size(classes=options.classes, dim=options.dim, batch=options.batch)
    rows, notes = compare(options, size)
    show("head_million", rows, notes, options)


if __name__ == "__main__":
    main()
