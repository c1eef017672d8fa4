"""Records in the host's memory, with a file of records for their checkpoints.

Between checkpoints only memory changes; a checkpoint writes the blocks that changed since the last.
"""

import numpy as np
import torch

from sharded_fc.tables.layout import Layout, Records
from sharded_fc.tables.record_file import RecordFile
from sharded_fc.tables.runs import Numbers, blocks_of, pieces, rows_of

_PIECE_BYTES = 64 << 20  # written or read at once: a sync is small beside it


class HostRecords:
    """The records of `file`, read into memory; `pinned` for copies to and from an accelerator."""

    def __init__(self, file: RecordFile, layout: Layout, *, block_rows: int, pinned: bool) -> None:
        self._file = file
        self._layout = layout
        self._block_rows = block_rows
        self._pinned = pinned
        self._load()

    @property
    def checkpoints(self) -> list[int]:
        """The steps that `restore` can go back to, ascending."""
        return self._file.checkpoints

    @property
    def journal_bytes(self) -> int:
        """What all checkpoints take beside the file of the newest."""
        return self._file.journal_bytes

    def expect(self, rows: Numbers) -> None:
        """Nothing is to be done for rows in memory."""

    def protect(self, rows: Numbers) -> None:
        """Nothing is to be done: the file changes at checkpoints only."""

    def read(self, rows: Numbers, out: Records) -> None:
        """Copy the records of `rows`, valid ones."""
        np.take(self._records, rows, axis=0, out=out, mode="clip")

    def write(self, rows: Numbers, records: Records) -> None:
        """Replace the records of ascending `rows`."""
        self._records[rows] = records
        self._changed[blocks_of(rows, self._block_rows)] = True

    def checkpoint(self, step: int) -> None:
        """Write what changed; then `restore(step)` returns to the present state."""
        each = max(1, _PIECE_BYTES // (self._layout.record_bytes * self._block_rows))
        for piece in pieces(np.flatnonzero(self._changed), each):
            rows = rows_of(piece, self._block_rows, self._layout.num_rows)
            self._file.write(rows, self._records[rows])
        self._file.checkpoint(step)
        self._changed[:] = False

    def restore(self, step: int) -> None:
        """Be again what the table was at checkpoint `step`; later ones are gone."""
        self._file.restore(step)
        self._load()

    def forget(self, *, before: int) -> None:
        """Give back what checkpoints before step `before` take. The newest one stays."""
        self._file.forget(before=before)

    def close(self) -> None:
        """Give back files and memory."""
        self._file.close()
        self._records = np.zeros((0, self._layout.record_bytes), dtype=np.uint8)

    def _load(self) -> None:
        layout = self._layout
        shape = (layout.num_rows, layout.record_bytes)
        self._records = np.zeros((0, layout.record_bytes), dtype=np.uint8)  # gone before the new
        if self._pinned:
            self._records = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
        else:
            self._records = np.zeros(shape, dtype=np.uint8)  # takes memory when it is written
        self._changed = np.zeros(-(-layout.num_rows // self._block_rows), dtype=bool)
        each = max(1, _PIECE_BYTES // layout.record_bytes)
        for first, last in self._file.filled():
            for start in range(first, last, each):
                rows = np.arange(start, min(start + each, last))
                self._file.read(rows, self._records[rows[0] : rows[-1] + 1])
