"""Records in one sparse file that can go back to its last checkpoints, whatever happened since.

    table.json          what the records are; the file that makes the folder a table
    rows                the records, as of now
    undo-000000001200   what blocks held at step 1200 that were changed after it (see journal)

The file itself is the base of its checkpoints; each of them costs only the blocks that change after
it. Records are read through a mapping and written by position: so a full disk is an OSError and not
a signal, and what is written when is ours to say. (A disk that can no longer be read is a signal.)
"""

import fcntl
import mmap
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sharded_fc.files import partial_path
from sharded_fc.tables.description import NAME, Facts, describe, encode, read_description
from sharded_fc.tables.disk import Disk
from sharded_fc.tables.journal import Journal, open_chain
from sharded_fc.tables.layout import Layout, Records
from sharded_fc.tables.runs import Numbers, blocks_of, pieces, rows_of, runs

_PIECE_BYTES = 8 << 20  # of blocks read and kept at once


class RecordFile:
    """The records of `layout` in `folder`, as they were at checkpoint `step`.

    Where the folder holds no table, one of untouched rows is made; that is its checkpoint 0.
    Blocks are of `block_rows` consecutive rows: what one change of a row has to keep.

    Raises:
        ValueError: the table there is of other rows, or has no such checkpoint.
        BlockingIOError: another process has it open.
    """

    def __init__(
        self, folder: Path, layout: Layout, *, block_rows: int, step: int, disk: Disk | None = None
    ) -> None:
        self.folder = folder
        self._layout = layout
        self._block_rows = block_rows
        self._disk = disk or Disk()
        self._journals: list[Journal] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self._disk.open(folder / "rows")
        try:
            self._lock()
            self._table = self._identity()
            self._find_journals()
            self._records = self._mapped()
            self._protected = np.zeros(-(-layout.num_rows // block_rows), dtype=bool)
            self.restore(step)
        except BaseException:
            self.close()
            raise

    @property
    def checkpoints(self) -> list[int]:
        """The steps that `restore` can go back to, ascending."""
        return [journal.step for journal in self._journals]

    @property
    def journal_bytes(self) -> int:
        """What all checkpoints take beside the table itself."""
        return sum(journal.taken_bytes for journal in self._journals)

    def expect(self, rows: Numbers) -> None:
        """Have the system read ascending `rows` ahead, while this returns."""
        size = self._layout.record_bytes
        for first, last in runs(rows):
            start, length = int(rows[first]) * size, (last - first) * size
            self._file.expect(start, length)

    def read(self, rows: Numbers, out: Records) -> None:
        """Copy the records of `rows`, valid ones."""
        np.take(self._records, rows, axis=0, out=out, mode="clip")

    def protect(self, rows: Numbers) -> None:
        """Have the blocks of ascending `rows` in the journal, synced, so that they may change.

        Raises:
            OSError: no room; nothing has changed.
        """
        blocks = blocks_of(rows, self._block_rows)
        blocks = blocks[~self._protected[blocks]]
        if not len(blocks):
            return
        journal = self._journals[-1]
        size = self._block_rows * self._layout.record_bytes
        for piece in pieces(blocks, max(1, _PIECE_BYTES // size)):
            whole = self._rows_of(piece)
            touched = np.zeros(len(piece), dtype=bool)
            marked = self._records[whole, self._layout.mark].astype(bool)
            touched[np.searchsorted(piece, whole[marked] // self._block_rows)] = True
            journal.add(
                piece[~touched], piece[touched], self._records[self._rows_of(piece[touched])]
            )
        journal.sync()
        self._protected[blocks] = True

    def filled(self) -> Iterator[tuple[int, int]]:
        """Rows [first, last) outside of which all are untouched."""
        size = self._layout.record_bytes
        for start, stop in self._file.extents():
            yield start // size, -(-stop // size)

    def write(self, rows: Numbers, records: Records) -> None:
        """Replace the records of ascending `rows`; what they were stays until the checkpoint goes.

        Raises:
            OSError: no room; what was written in part is undone by `restore`.
        """
        self.protect(rows)
        for first, last in runs(rows):
            at = int(rows[first]) * self._layout.record_bytes
            self._file.write(at, records[first:last].reshape(-1).data)

    def checkpoint(self, step: int) -> None:
        """Make the present state one that `restore(step)` returns to. All earlier ones stay."""
        newest = self._journals[-1].step
        if step <= newest:
            raise ValueError(f"checkpoint {step} after {newest}; steps only grow")
        self._file.sync()
        self._begin(step, previous=newest)
        self._protected[:] = False

    def restore(self, step: int) -> None:
        """Be again what the table was at checkpoint `step`; later ones are gone.

        Stopped half-way, it can be done again, with this step or any later one that still exists.
        """
        if step not in self.checkpoints:
            known = ", ".join(str(known) for known in self.checkpoints)
            raise ValueError(
                f"{self.folder} holds checkpoints {known}, not {step}; continue from one of them,"
                " or give a new table a folder of its own"
            )
        while True:
            journal = self._journals[-1]
            self._undo(journal)
            if journal.step == step:
                journal.clear()
                self._protected[:] = False
                return
            self._disk.remove(journal.path)
            self._journals.pop().close()

    def forget(self, *, before: int) -> None:
        """Give back what checkpoints before step `before` take. The newest one stays."""
        while len(self._journals) > 1 and self._journals[0].step < before:
            self._disk.remove(self._journals[0].path)
            self._journals.pop(0).close()

    def close(self) -> None:
        """Give back files and mapping; what was not checkpointed will be undone."""
        self._records = np.zeros((0, self._layout.record_bytes), dtype=np.uint8)
        for journal in self._journals:
            journal.close()
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.folder} is in use by another process; stop it or name another folder"
            ) from None

    def _identity(self) -> bytes:
        """The table's random id, of one that is made where there was none."""
        facts = describe(self._layout, block_rows=self._block_rows)
        path = self.folder / NAME
        if not path.exists():
            return self._create(path, facts)
        known, identity = read_description(self.folder)
        for name, value in facts.items():
            if known.get(name) != value:
                raise ValueError(
                    f"{path} is of a table whose {name} is {known.get(name)}, not {value};"
                    " continue with what made it, or name another folder"
                )
        return identity

    def _create(self, path: Path, facts: Facts) -> bytes:
        if next(self._file.extents(), None) is not None:  # making a table writes no row
            raise ValueError(
                f"{self.folder} holds rows but no {path.name}; put it back or name another folder"
            )
        identity = secrets.token_bytes(16)
        for left in self.folder.glob("undo-*"):
            self._disk.remove(left)
        self._file.truncate(self._layout.num_rows * self._layout.record_bytes)
        self._file.sync()
        self._table = identity
        self._begin(0, previous=-1)
        self._journals.pop().close()
        file = self._disk.open(partial_path(path))
        file.truncate(0)
        file.write(0, encode(facts, identity))
        file.sync()
        file.close()
        self._disk.rename(file.path, path)
        return identity

    def _begin(self, step: int, *, previous: int) -> None:
        journal = Journal.create(
            self._disk, self.folder, table=self._table, step=step, previous=previous
        )
        self._journals.append(journal)

    def _find_journals(self) -> None:
        self._journals = open_chain(self._disk, self.folder, table=self._table)
        chained = {journal.path for journal in self._journals}
        for left in (*self.folder.glob(".*.partial"), *self.folder.glob("undo-*")):
            if left not in chained:
                self._disk.remove(left)

    def _mapped(self) -> np.ndarray:
        layout = self._layout
        size = layout.num_rows * layout.record_bytes
        if self._file.size() != size:
            raise OSError(
                f"{self._file.path} has {self._file.size()} bytes, not {size}; it was cut"
            )
        mapping = mmap.mmap(self._file.descriptor, size, prot=mmap.PROT_READ)
        mapping.madvise(mmap.MADV_RANDOM)  # `expect` says what is needed; guesses would read more
        return np.frombuffer(mapping, np.uint8).reshape(layout.num_rows, layout.record_bytes)

    def _undo(self, journal: Journal) -> None:
        size = self._layout.record_bytes
        for entry in journal.entries():
            for blocks, contents in ((entry.absent, None), (entry.present, entry.contents)):
                rows = self._rows_of(blocks)
                for first, last in runs(rows):
                    place = slice(first * size, last * size)
                    old = bytes(place.stop - place.start) if contents is None else contents[place]
                    self._file.write(int(rows[first]) * size, old)
        self._file.sync()

    def _rows_of(self, blocks: Numbers) -> Numbers:
        return rows_of(blocks, self._block_rows, self._layout.num_rows)
