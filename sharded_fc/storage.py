"""One rank's rows: its classes' centres and whatever the optimizer keeps for each of them.

A table is born empty: rows get their first values when they are first asked for, so that making a
head of any size costs nothing and a resumed one writes each row once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import huge_pages
from sharded_fc.initial import initial_rows
from sharded_fc.reshard import gaps, overlap

Block = tuple[int, dict[str, Tensor]]
"""(first global row, {"centre": [n, dim], state name: [n, width]}), on the host."""

_PIECE_ROWS = 1024  # what is made ready at once: 2 MiB of float32 at 512 columns, still in cache


@dataclass(frozen=True)
class RowSlice:
    """Some rows, to be read and written where they are.

    Views of consecutive rows; or, with an `index`, tables of which it names the rows, none twice.
    """

    centre: Float[Tensor, "_ dim"]
    state: dict[str, Tensor]
    first: int
    """The global number of the tensors' first row."""
    index: Int[Tensor, " n"] | None = None
    numbers: Int[Tensor, " _"] | None = None
    """The global numbers of all rows of the tables, where they do not count on from `first`."""

    def read(self, name: str) -> Float[Tensor, "n _"]:
        """The rows' centres, or what is kept for them under another name."""
        table = self.centre if name == "centre" else self.state[name]
        return table if self.index is None else table[self.index]

    def write(self, name: str, value: Float[Tensor, "n _"]) -> None:
        """Put rows of any dtype where `read` finds them."""
        table = self.centre if name == "centre" else self.state[name]
        if self.index is None:
            table.copy_(value)
        else:
            table[self.index] = value.to(table.dtype)

    @property
    def number(self) -> int | Int[Tensor, " n"]:
        """The global number of the first row, or those of all."""
        if self.index is None:
            return self.first
        return self.index + self.first if self.numbers is None else self.numbers[self.index]

    def cut(self, here: slice) -> "RowSlice":
        """Some of them; `here` has a start and no step."""
        if self.index is not None:
            return replace(self, index=self.index[here])
        state = {name: tensor[here] for name, tensor in self.state.items()}
        return RowSlice(self.centre[here], state, self.first + here.start)


class Rows:
    """Rows [start, stop) of the global table, counted over all ranks.

    `centre` is [stop - start, embedding_dim] in `dtype`; `state` holds a tensor of each width in
    `state_widths`, in `state_dtype`, but those of width 1 in full precision. With `initial_columns`
    only the first so many columns start at random, the others at 0, and the former at the bits
    that a table of just these columns would have. `wins` counts the samples of its class that each
    row was nearest to: with one row a class, the images of it that were seen.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        *,
        embedding_dim: int,
        state_widths: dict[str, int],
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        initial_columns: int | None = None,
    ) -> None:
        self.start = start
        self.stop = stop
        self._seed = seed
        self._initial_columns = embedding_dim if initial_columns is None else initial_columns
        self.centre = huge_pages.empty(stop - start, embedding_dim, dtype=dtype, device=device)
        working = working_dtype(dtype)
        self.state = {
            name: huge_pages.empty(
                stop - start, width, dtype=working if width == 1 else state_dtype, device=device
            )
            for name, width in state_widths.items()
        }
        self.wins = torch.zeros(stop - start, dtype=torch.int64, device=device)
        self._unwritten = set(range(-(-len(self) // _PIECE_ROWS)))

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def width(self) -> int:
        """Columns of a centre."""
        return self.centre.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """That of the centres."""
        return self.centre.dtype

    @property
    def device(self) -> torch.device:
        """Where they are computed with."""
        return self.centre.device

    @property
    def bytes(self) -> int:
        """Size of the centres and the optimizer's rows."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def ready(self, start: int, stop: int) -> None:
        """Give the rows [start, stop), counted within this partition, a value if they have none.

        Reading `centre` or `state` without it finds whatever the memory held.
        """
        if not self._unwritten:
            return
        for piece in range(start // _PIECE_ROWS, -(-stop // _PIECE_ROWS)):
            if piece in self._unwritten:
                self._write_initial(piece)
                self._unwritten.discard(piece)

    def view(self, start: int, stop: int) -> RowSlice:
        """The rows [start, stop), counted within this partition, ready to be read and written."""
        self.ready(start, stop)
        return RowSlice(
            centre=self.centre[start:stop],
            state={name: tensor[start:stop] for name, tensor in self.state.items()},
            first=self.start + start,
        )

    def at(self, index: Int[Tensor, " n"]) -> RowSlice:
        """The rows of these numbers, counted within this partition; all rows are `ready`."""
        return RowSlice(self.centre, self.state, self.start, index)

    def places(self, number: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Where in the tables rows lie, counted within this partition: there."""
        return number

    def numbers(self, index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The rows, counted within this partition, at places in the tables."""
        return index

    def blocks(self, block: int) -> Iterator[Block]:
        """Copies on the host, `block` rows at a time, each with its first global row."""
        for first in range(0, len(self), block):
            last = min(first + block, len(self))
            self.ready(first, last)
            copies = {
                name: tensor[first:last].to("cpu", copy=True)
                for name, tensor in self._tensors().items()
            }
            copies["wins"] = self.wins[first:last].unsqueeze(1).to("cpu", copy=True)
            yield self.start + first, copies

    def fill(self, blocks: Iterable[Block], *, centres_only: bool = False) -> None:
        """Take from blocks of any partitioning and dtype what belongs here; refuse to leave a gap.

        Other dtypes are rounded to the nearest. With `centres_only` the optimizer's rows start
        anew. Rows are written as they come: after an error they are a mixture, and must be loaded
        again.
        """
        wanted = {"centre": self.centre} if centres_only else self._tensors()
        fresh = [self.wins, *(self.state.values() if centres_only else ())]
        for tensor in fresh:
            tensor.zero_()
        covered = []
        for first, block in blocks:
            _check(first, block, wanted)
            place = overlap(
                block_start=first,
                block_rows=len(block["centre"]),
                start=self.start,
                stop=self.stop,
            )
            if place is None:
                continue
            theirs, ours = place
            for name, tensor in wanted.items():
                tensor[ours] = block[name][theirs].to(tensor.device, tensor.dtype)
            if "wins" in block and not centres_only:
                self.wins[ours] = block["wins"][theirs].squeeze(1).to(self.wins.device)
            covered.append((ours.start, ours.stop))
        missing = gaps(covered, num_rows=len(self))
        if missing:
            pieces = ", ".join(f"[{self.start + a}, {self.start + b})" for a, b in missing)
            raise ValueError(f"no block holds rows {pieces}; pass every block of the checkpoint")
        self._unwritten.clear()

    def _tensors(self) -> dict[str, Tensor]:
        return {"centre": self.centre, **self.state}

    def _write_initial(self, piece: int) -> None:
        first = piece * _PIECE_ROWS
        last = min(first + _PIECE_ROWS, len(self))
        columns = self._initial_columns
        self.centre[first:last, :columns] = initial_rows(
            self.start + first,
            self.start + last,
            embedding_dim=columns,
            seed=self._seed,
            device=self.centre.device,
        )
        self.centre[first:last, columns:] = 0
        for tensor in self.state.values():
            tensor[first:last] = 0


def working_dtype(storage: torch.dtype) -> torch.dtype:
    """What rows are computed in: float32, but float64 where they are kept in it."""
    return torch.float64 if storage == torch.float64 else torch.float32


def _check(first: int, block: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    absent = sorted(set(wanted) - set(block))
    if absent:
        raise ValueError(
            f"the block at row {first} has no {', '.join(absent)}; "
            "load rows saved with the same optimizer, or the centres only"
        )
    rows = len(block["centre"])
    for name, tensor in wanted.items():
        shape = (rows, tensor.shape[1])
        if block[name].shape != shape:
            raise ValueError(
                f"the block at row {first} has {name} of shape {tuple(block[name].shape)}, "
                f"not {shape}; load rows of the same embedding_dim and optimizer"
            )
