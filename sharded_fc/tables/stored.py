"""A table whose records are kept elsewhere: only a step's rows come to the device, one step ahead.

One worker thread reads and writes in the order of the calls, so a read sees every write that was
asked for before it. What it misses is the step that was still computing: the rows that both steps
have in common are handed on from buffer to buffer. There are two buffers.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sharded_fc.reshard import gaps, overlap
from sharded_fc.storage import Block
from sharded_fc.tables.buffers import Buffers, Travel
from sharded_fc.tables.layout import COUNTERS, Layout, Records
from sharded_fc.tables.runs import Numbers
from sharded_fc.tables.store import Store
from sharded_fc.tables.table import RowNumbers, Taken

_PIECE_BYTES = 1 << 20  # of records copied at once: they stay in cache until they are unpacked

T = TypeVar("T")


@dataclass(frozen=True)
class _Ahead:
    rows: RowNumbers
    buffers: int
    done: Future[None]


@dataclass(frozen=True)
class _Latest:
    taken: Taken
    buffers: int
    scattered: bool


class StoredTable:
    """The rows of `layout` in `store`, taken to `device`; see `table.Table` for the calls.

    An error in writing is raised by the next call, and by every further one until `restore`.
    """

    def __init__(self, layout: Layout, store: Store, *, device: torch.device) -> None:
        self.layout = layout
        self._store = store
        self._travel = Travel(device)
        self._buffers = (Buffers(layout, device), Buffers(layout, device))
        self._ahead: _Ahead | None = None
        self._latest: _Latest | None = None
        self._failure: Exception | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="table")

    def __len__(self) -> int:
        return self.layout.num_rows

    @property
    def checkpoints(self) -> list[int]:
        """The steps that `restore` can go back to, ascending."""
        return self._store.checkpoints

    @property
    def journal_bytes(self) -> int:
        """What checkpoints take on the disk; it grows until the next one, `forget` lowers it."""
        return self._store.journal_bytes

    def prefetch(self, rows: RowNumbers) -> None:
        """See `table.Table`."""
        self._raise_failure()
        numbers = self._checked(rows)
        free = 0 if self._latest is None else 1 - self._latest.buffers
        done = self._worker.submit(
            self._read, numbers, self._buffers[free], after=self._travel.now()
        )
        self._ahead = _Ahead(rows, free, done)

    def gather(self, rows: RowNumbers) -> Taken:
        """See `table.Table`."""
        if self._ahead is None or not torch.equal(self._ahead.rows, rows):
            self.prefetch(rows)
        ahead, self._ahead = self._ahead, None
        assert ahead is not None
        ahead.done.result()
        self._raise_failure()
        if self._latest is not None and self._latest.scattered:
            self._hand_on(self._latest, ahead)
        taken = self._buffers[ahead.buffers].taken(rows)
        self._latest = _Latest(taken, ahead.buffers, scattered=False)
        return taken

    def scatter(self, taken: Taken) -> None:
        """See `table.Table`."""
        self._raise_failure()
        latest = self._latest
        if latest is None or latest.taken is not taken or latest.scattered:
            raise RuntimeError("scatter what the last gather returned, once")
        buffers = self._buffers[latest.buffers]
        self._worker.submit(self._write, taken.rows.numpy(), buffers, after=self._travel.now())
        self._latest = replace(latest, scattered=True)

    def blocks(self, block: int) -> Iterator[Block]:
        """See `table.Table`; a row that nobody has touched comes with its first values."""
        for first in range(0, len(self), block):
            yield self.layout.start + first, self.read(first, min(first + block, len(self)))

    def read(self, first: int, last: int) -> dict[str, Tensor]:
        """Copies on the host of the rows [first, last), counted within the partition."""
        rows = np.arange(first, last)
        tensors = self.layout.empty(len(rows))
        self._in_turn(lambda: self._read_into(rows, tensors))
        return tensors

    def fill(self, blocks: Iterable[Block], *, centres_only: bool = False) -> None:
        """See `table.Table`. Counters start at 0 where the blocks have none.

        It is a checkpoint only after `checkpoint`; after an error `restore` is the way back.
        """
        self._forget_buffers()
        layout = self.layout
        covered = []
        for first, block in blocks:
            wanted = self._wanted(first, block, centres_only=centres_only)
            place = overlap(
                block_start=first,
                block_rows=len(block["centre"]),
                start=layout.start,
                stop=layout.stop,
            )
            if place is None:
                continue
            theirs, ours = place
            tensors = layout.empty(ours.stop - ours.start)
            for name, tensor in tensors.items():
                tensor.copy_(block[name][theirs]) if name in wanted else tensor.zero_()
            rows = np.arange(ours.start, ours.stop)
            self._in_turn(lambda rows=rows, tensors=tensors: self._write_from(rows, tensors))
            covered.append((ours.start, ours.stop))
        if missing := gaps(covered, num_rows=len(self)):
            pieces = ", ".join(f"[{layout.start + a}, {layout.start + b})" for a, b in missing)
            raise ValueError(f"no block holds rows {pieces}; pass every block of the checkpoint")

    def checkpoint(self, step: int) -> None:
        """Make the present state, with everything scattered, one that `restore` returns to.

        The earlier ones stay: once the run's own record of this step is safe, `forget` them.
        """
        self._in_turn(lambda: self._store.checkpoint(step))

    def restore(self, step: int) -> None:
        """Be again what the table was at checkpoint `step`; later ones are gone."""
        self._forget_buffers()
        self._worker.submit(self._store.restore, step).result()
        self._failure = None

    def forget(self, *, before: int) -> None:
        """Give back what checkpoints before step `before` take. The newest one stays."""
        self._in_turn(lambda: self._store.forget(before=before))

    def close(self) -> None:
        """Wait for what is under way and give everything back."""
        self._worker.shutdown()
        self._store.close()

    def _checked(self, rows: RowNumbers) -> Numbers:
        numbers = rows.numpy()
        ascending = bool((np.diff(numbers) > 0).all())
        if len(numbers) and not (ascending and numbers[0] >= 0 and numbers[-1] < len(self)):
            raise ValueError(f"rows must ascend within [0, {len(self)}), none twice")
        return numbers

    def _hand_on(self, latest: _Latest, ahead: _Ahead) -> None:
        """Copy the rows that both have from the older buffer to the newer."""
        older, newer = latest.taken.rows.numpy(), ahead.rows.numpy()
        _, source, to = np.intersect1d(older, newer, assume_unique=True, return_indices=True)
        if not len(source):
            return
        theirs = self._buffers[latest.buffers].near(len(older))
        for name, tensor in self._buffers[ahead.buffers].near(len(newer)).items():
            here = torch.from_numpy(source).to(tensor.device)
            tensor[torch.from_numpy(to).to(tensor.device)] = theirs[name][here]

    def _read(self, rows: Numbers, buffers: Buffers, *, after: Any) -> None:
        self._store.expect(rows)
        self._store.protect(rows)
        self._read_into(rows, buffers.host(len(rows)))
        self._travel.up(buffers, len(rows), after=after)

    def _write(self, rows: Numbers, buffers: Buffers, *, after: Any) -> None:
        try:
            self._raise_failure()
            self._travel.down(buffers, len(rows), after=after)
            self._write_from(rows, buffers.host(len(rows)))
        except Exception as error:  # raised by the next call
            self._failure = error

    def _read_into(self, rows: Numbers, tensors: dict[str, Tensor]) -> None:
        for part, fields, records in self._in_pieces(rows, tensors):
            self._store.read(part, records)
            self.layout.unpack(records, fields)
            unmade = records[:, self.layout.mark] == 0
            if unmade.any():
                self.layout.make(part, unmade, fields)

    def _write_from(self, rows: Numbers, tensors: dict[str, Tensor]) -> None:
        self._store.protect(rows)
        for part, fields, records in self._in_pieces(rows, tensors):
            self.layout.pack(fields, records)
            self._store.write(part, records)

    def _in_pieces(
        self, rows: Numbers, tensors: dict[str, Tensor]
    ) -> Iterator[tuple[Numbers, dict[str, Tensor], Records]]:
        """Few rows at a time, with their fields and room for their records."""
        size = self.layout.record_bytes
        each = max(1, _PIECE_BYTES // size)
        room = np.zeros((min(each, len(rows)), size), dtype=np.uint8)
        for first in range(0, len(rows), each):
            part = rows[first : first + each]
            fields = {name: tensor[first : first + each] for name, tensor in tensors.items()}
            yield part, fields, room[: len(part)]

    def _in_turn(self, work: Callable[[], T]) -> T:
        """Do something after all that was asked for, if that went well."""

        def last() -> T:
            self._raise_failure()
            return work()

        return self._worker.submit(last).result()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise OSError(
                f"rows could not be written ({self._failure}); make room and restore a checkpoint"
            ) from self._failure

    def _forget_buffers(self) -> None:
        self._ahead = self._latest = None

    def _wanted(self, first: int, block: dict[str, Tensor], *, centres_only: bool) -> set[str]:
        """The fields to take from a block, which has to have those that are not counters."""
        needed = {"centre"} if centres_only else set(self.layout.fields) - set(COUNTERS)
        if absent := sorted(needed - set(block)):
            raise ValueError(
                f"the block at row {first} has no {', '.join(absent)}; "
                "load rows saved with the same optimizer, or the centres only"
            )
        wanted = needed if centres_only else set(self.layout.fields) & set(block)
        for name in sorted(wanted):
            shape = (len(block["centre"]), self.layout.fields[name].width)
            if block[name].shape != shape:
                raise ValueError(
                    f"the block at row {first} has {name} of shape {tuple(block[name].shape)}, "
                    f"not {shape}; load rows of the same embedding_dim and optimizer"
                )
        return wanted
