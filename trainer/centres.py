"""What a run tells of its centres now and then: their lengths, and pairs that may be one person."""

from pathlib import Path

from sharded_fc import ShardedHead
from trainer.metrics import Metrics

MOST_CONFLICTS = 1000
"""Pairs of classes that a person may look through."""


def publish_centres(head: ShardedHead, metrics: Metrics) -> None:
    """Publish figures of all ranks' centres; reads every row. Every rank calls it."""
    found = head.summary()
    metrics.centres(
        never_seen=found.never_seen,
        lengths={"shortest": found.shortest, "mean": found.mean_length, "longest": found.longest},
    )


def write_conflicts(head: ShardedHead, path: Path, *, conflict_cosine: float) -> str:
    """List the pairs of classes whose centres' cosine is above; what became of it, in one line.

    Every rank calls it with the same arguments. The work grows with the square of the classes. A
    full disk does not stop the training.
    """
    try:
        pairs = head.merge_suggestions(path, threshold=conflict_cosine, most=MOST_CONFLICTS)
    except OSError as error:
        return f"{path.name} is not written, the training goes on: {error}"
    return (
        f"{pairs.found} pairs of centres above cosine {conflict_cosine};"
        f" {path.name} has the {pairs.written} most alike"
    )
