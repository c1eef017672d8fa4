"""A table's rows as they were at a checkpoint, for ranks of any number; nothing is changed."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sharded_fc.storage import Block
from sharded_fc.tables.description import layout_of, read_description
from sharded_fc.tables.disk import Disk
from sharded_fc.tables.journal import Journal, open_chain

Kept = dict[int, tuple[Journal, int] | None]
"""By block: where its content at the checkpoint lies; None where it held nothing but zeros."""


def read_table(folder: Path, *, step: int, block: int) -> Iterator[Block]:
    """The table's rows at checkpoint `step`, `block` rows at a time, as `storage.Rows.blocks`.

    Many processes may read at once, but not while one trains with the table.

    Raises:
        ValueError: there is no such checkpoint.
        BlockingIOError: the table is being trained with.
    """
    facts, identity = read_description(folder)
    layout, block_rows = layout_of(facts), facts["rows a block"]
    size = layout.record_bytes
    with (folder / "rows").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder} is being trained with; read it after that") from None
        journals = open_chain(Disk(), folder, table=identity)
        try:
            kept = _kept(journals, step, folder, block_bytes=block_rows * size)
            for first in range(0, layout.num_rows, block):
                rows = np.arange(first, min(first + block, layout.num_rows))
                file.seek(first * size)
                records = np.frombuffer(bytearray(file.read(len(rows) * size)), np.uint8)
                records = records.reshape(len(rows), size)
                for number in range(first // block_rows, rows[-1] // block_rows + 1):
                    if number in kept:
                        start = number * block_rows
                        stop = min(start + block_rows, layout.num_rows)
                        here = slice(max(start, first), min(stop, first + len(rows)))
                        old = _content(kept[number], (stop - start) * size).reshape(-1, size)
                        records[here.start - first : here.stop - first] = old[
                            here.start - start : here.stop - start
                        ]
                tensors = layout.empty(len(rows))
                layout.unpack(records, tensors)
                layout.make(rows, records[:, layout.mark] == 0, tensors)
                yield layout.start + first, tensors
        finally:
            for journal in journals:
                journal.close()


def _kept(journals: list[Journal], step: int, folder: Path, *, block_bytes: int) -> Kept:
    """What the journals from `step` on hold; of a block in several, the oldest counts."""
    steps = [journal.step for journal in journals]
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise ValueError(f"{folder} holds checkpoints {known}, not {step}; read one of them")
    kept: Kept = {}
    for journal in reversed(journals[steps.index(step) :]):
        for entry in journal.entries():
            kept.update(dict.fromkeys(entry.absent.tolist()))
            for place, number in enumerate(entry.present.tolist()):
                kept[number] = (journal, entry.at + place * block_bytes)
    return kept


def _content(place: tuple[Journal, int] | None, size: int) -> np.ndarray:
    if place is None:
        return np.zeros(size, dtype=np.uint8)
    journal, at = place
    return np.frombuffer(journal.read(at, size), np.uint8)
