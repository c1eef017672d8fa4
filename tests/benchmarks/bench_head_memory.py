"""The memory of the head over batch sizes: what it needs beyond its rows does not grow with them.

python -m tests.benchmarks.bench_head_memory [--record] [--classes 100000] [--dim 512]
"""

from tests.benchmarks.heads import DENSE, SHARDED, SHARDED_LOW, Size, parser, show
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.record import Cell

BATCHES = (64, 256, 1024)


def measure(classes: int, dim: int, *, threads: int) -> list[dict[str, Cell]]:
    """One row for each head and batch."""
    rows: list[dict[str, Cell]] = []
    for candidate in (DENSE, SHARDED, SHARDED_LOW):
        for batch in BATCHES:
            size = Size(classes=classes, dim=dim, batch=batch)
            peak = peak_bytes(candidate, size, threads=threads)
            extra = peak - size.row_bytes(candidate)
            logits = size.classes * batch * 4
            rows.append(
                {
                    "head": candidate.name,
                    "batch": batch,
                    "peak MB": round(peak / 1e6),
                    "beyond rows MB": round(extra / 1e6),
                    "all logits MB": round(logits / 1e6),
                    "beyond, of all logits": extra / logits,
                }
            )
    return rows


def main() -> None:
    """Measure, and record if asked."""
    options = parser(__doc__, classes=100_000, dim=512).parse_args()
    rows = measure(options.classes, options.dim, threads=options.threads)
    notes = ["beyond rows: peak less centres and momentum; all logits: classes x batch in float32"]
    show("head_memory", rows, notes, options)


if __name__ == "__main__":
    main()
