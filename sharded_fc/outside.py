"""One rank's rows where the device is too small for them: in host memory, or in a file.

    <folder>/rows-0-5000-since-0/        the table of the global rows [0, 5000), begun at step 0
    <folder>/rows-5000-10000-since-0/    another rank's

A step's rows are taken to the device and put back; all others stay where they are (`tables`).
"""

import errno
import re
import shutil
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.reshard import overlap
from sharded_fc.storage import Block
from sharded_fc.tables import Layout, StoredTable, Taken, open_table, read_table
from sharded_fc.window import Window

_NAME = re.compile(r"rows-(\d+)-(\d+)-since-\d+")
_BLOCK_ROWS = 65536  # read at once when rows go over to tables of other bounds
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RowsError(OSError):
    """A table could not be read or written. Its checkpoints are as they were.

    `full` says whether what lacks is room.
    """

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Keep rows in (pinned) host memory, or in files as the last resort.

    `folder` is this head's alone; each rank has tables of its own in it. Ranks that are to go on
    in another number have to see one and the same folder.
    """

    kept_in: Literal["host", "mapped"]
    folder: Path


class OutsideRows:
    """The rows of `layout`, of which only a step's come to `device`.

    The table is opened when it is first asked for something, as of checkpoint 0, or by `restore`.
    Where the disk refuses, every call raises a `RowsError`; only `restore` goes on then.
    """

    def __init__(
        self, layout: Layout, outside: Outside, *, block_rows: int, device: torch.device
    ) -> None:
        self._layout = layout
        self._outside = outside
        self._block_rows = block_rows
        self.device = device
        self.start, self.stop = layout.start, layout.stop
        self.name = self._name_since(0)
        self._opened: StoredTable | None = None
        self._close: Callable[[], object] = lambda: None
        self._window: Window | None = None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Columns of a centre."""
        return self._layout.embedding_dim

    @property
    def dtype(self) -> torch.dtype:
        """That of the centres."""
        return self._layout.dtype

    @property
    def bytes(self) -> int:
        """What rows take on the device while no step is under way."""
        return 0

    @property
    def table(self) -> StoredTable:
        """The table, opened."""
        if self._opened is None:
            self._open(self.name, step=0)
        assert self._opened is not None
        return self._opened

    def none(self) -> Window:
        """A window of no rows, for its dtypes and its device."""
        empty = {name: tensor.to(self.device) for name, tensor in self._layout.empty(0).items()}
        return self.window(torch.empty(0, dtype=torch.int64), empty)

    def take(self, rows: Int[Tensor, " n"]) -> Window:
        """Ascending rows of the partition, one at least; those taken before become worthless."""
        with self._naming_folder():
            taken = self.table.gather(rows.cpu())
        self._window = Window(taken, start=self.start, stop=self.stop)
        return self._window

    def expect(self, rows: Int[Tensor, " n"]) -> None:
        """Begin to read rows that the next `take` will probably ask for; after this step's."""
        with self._naming_folder():
            self.table.prefetch(rows.cpu())

    def check(self, window: Window) -> None:
        """Refuse, before anything changes, to go on with rows that are not the last taken."""
        if window is not self._window:
            raise RuntimeError(
                "this pass of the head is not its last one, and only the last one's rows are at "
                "hand; with rows outside the device call loss.backward() before the next head(...)"
            )

    def keep(self, window: Window) -> None:
        """Put back the rows last taken, while the caller goes on."""
        self.check(window)
        self._window = None
        with self._naming_folder():
            self.table.scatter(window.taken)

    def read(self, first: int, last: int) -> Window:
        """Copies of the rows [first, last) of the partition, on the device."""
        with self._naming_folder():
            read = self.table.read(first, last)
        tensors = {name: tensor.to(self.device) for name, tensor in read.items()}
        return self.window(torch.arange(first, last), tensors)

    def window(self, rows: Tensor, tensors: dict[str, Tensor]) -> Window:
        """A window of rows whose fields are given, [n, width] each."""
        state = dict(tensors)
        centre = state.pop("centre")
        wins, counter = (state.pop(name).squeeze(1) for name in ("wins", "counter"))
        taken = Taken(rows, centre, state, wins, counter)
        return Window(taken, start=self.start, stop=self.stop)

    def fill(self, blocks: Iterable[Block], *, centres_only: bool = False) -> None:
        """Take over rows as `storage.Rows.fill` does."""
        self._window = None
        self.table.fill(blocks, centres_only=centres_only)

    def checkpoint(self, step: int) -> str:
        """Make the rows as they are one that `restore` returns to; the table's name."""
        with self._naming_folder():
            self.table.checkpoint(step)
        return self.name

    def forget(self, *, before: int) -> None:
        """Give back what this table's checkpoints before step `before` take."""
        self.table.forget(before=before)

    def remove_others(self, names: Collection[str]) -> None:
        """Remove the tables of all ranks that have other names."""
        for path in self._outside.folder.glob("rows-*"):
            if _NAME.fullmatch(path.name) and path.name not in names:
                shutil.rmtree(path)

    def restore(self, names: Collection[str], *, step: int) -> None:
        """Be what the tables of these names, all ranks' then, held at checkpoint `step`.

        Where none has this rank's bounds a new one is made of them, with that one checkpoint.

        Raises:
            ValueError: a table is missing, or has no such checkpoint.
            BlockingIOError: another process trains with one.
        """
        bounds = {name: self._bounds(name) for name in names}
        for name, (start, stop) in bounds.items():
            if (start, stop) == (self.start, self.stop):
                self._open(name, step=step)
                return
        new = self._name_since(step)
        self._shut()
        if (self._outside.folder / new).exists():  # what was stopped half-way, or is of no use now
            shutil.rmtree(self._outside.folder / new)
        self._open(new, step=0)
        self.table.fill(self._blocks_of(bounds, step))
        self.table.checkpoint(step)

    def close(self) -> None:
        """Wait for what is under way; changes since the last checkpoint will be undone."""
        self._shut()

    def _blocks_of(self, bounds: dict[str, tuple[int, int]], step: int) -> Iterator[Block]:
        for name, (start, stop) in bounds.items():
            if overlap(
                block_start=start, block_rows=stop - start, start=self.start, stop=self.stop
            ):
                yield from read_table(self._outside.folder / name, step=step, block=_BLOCK_ROWS)

    def _bounds(self, name: str) -> tuple[int, int]:
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} is no name of a table; use a checkpoint of this head")
        if not (self._outside.folder / name / "table.json").exists():
            raise ValueError(
                f"{self._outside.folder / name} is missing; put back the table that the checkpoint "
                "goes with"
            )
        return int(found[1]), int(found[2])

    def _name_since(self, step: int) -> str:
        return f"rows-{self._layout.start}-{self._layout.stop}-since-{step}"

    def _open(self, name: str, *, step: int) -> None:
        self._shut()
        self._opened = open_table(
            self._outside.folder / name,
            self._layout,
            kept_in=self._outside.kept_in,
            block_rows=self._block_rows,
            step=step,
            device=self.device,
        )
        self._close = weakref.finalize(self, self._opened.close)  # its files are locked till then
        self.name = name

    @contextmanager
    def _naming_folder(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # in use by another process, as `open_table` says
            raise
        except OSError as error:
            first = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise RowsError(
                f"rows in {self._outside.folder / self.name} cannot be read or written:"
                f" {first.strerror or first}",
                full=first.errno in _FULL,
            ) from error

    def _shut(self) -> None:
        self._close()
        self._close = lambda: None
        self._opened = self._window = None
