"""What a table keeps of each row, as one record: centre, optimizer's state, counters, a mark.

A record of zeros stands for a row that nobody has touched yet, so that a new table is one hole: its
rows get their first values, a hash of (seed, row, column), when they are first read.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from sharded_fc.initial import initial_rows_of
from sharded_fc.storage import working_dtype
from sharded_fc.tables.runs import Numbers

COUNTERS = ("wins", "counter")
"""One int64 a row each: samples whose nearest row it was; the step that it is caught up to."""

_ALIGNMENT = 8  # bytes, of the widest item

Records = UInt8[np.ndarray, "n record"]


@dataclass(frozen=True)
class Field:
    """A tensor's share of a record: `width` items from byte `offset` on."""

    dtype: torch.dtype
    width: int
    offset: int

    @property
    def bytes(self) -> int:
        """Size in the record."""
        return self.dtype.itemsize * self.width


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows [start, stop) of the global table; dtypes and first values as in `storage.Rows`."""

    start: int
    stop: int
    embedding_dim: int
    state_widths: dict[str, int]
    seed: int
    dtype: torch.dtype
    state_dtype: torch.dtype
    initial_columns: int | None = None

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def random_columns(self) -> int:
        """How many columns of a centre start at random; the others start at 0."""
        return self.embedding_dim if self.initial_columns is None else self.initial_columns

    @cached_property
    def fields(self) -> dict[str, Field]:
        """The centre, the states and the counters, in the order of the record."""
        single = working_dtype(self.dtype)
        wanted = {"centre": (self.dtype, self.embedding_dim)}
        for name, width in self.state_widths.items():
            wanted[name] = (single if width == 1 else self.state_dtype, width)
        wanted |= dict.fromkeys(COUNTERS, (torch.int64, 1))
        fields: dict[str, Field] = {}
        end = 0
        for name, (dtype, width) in wanted.items():
            fields[name] = Field(dtype, width, end)
            end = _aligned(end + fields[name].bytes)
        return fields

    @property
    def mark(self) -> int:
        """The byte of a record that is 1 once the row has its values."""
        last = self.fields[COUNTERS[-1]]
        return last.offset + last.bytes

    @property
    def record_bytes(self) -> int:
        """Size of a record."""
        return self.mark + _ALIGNMENT

    def empty(self, num_rows: int, *, pinned: bool = False) -> dict[str, Tensor]:
        """Room for so many rows' fields, [num_rows, width] each, on the host."""
        return {
            name: torch.empty(num_rows, field.width, dtype=field.dtype, pin_memory=pinned)
            for name, field in self.fields.items()
        }

    def unpack(self, records: Records, into: dict[str, Tensor]) -> None:
        """Copy the fields of records into tensors as of `empty`, of as many rows."""
        for name, tensor in into.items():
            field = self.fields[name]
            as_bytes(tensor)[:] = records[:, field.offset : field.offset + field.bytes]

    def pack(self, tensors: dict[str, Tensor], into: Records) -> None:
        """Write records that hold the fields and the mark; of what lies between, nothing."""
        for name, tensor in tensors.items():
            field = self.fields[name]
            into[:, field.offset : field.offset + field.bytes] = as_bytes(tensor)
        into[:, self.mark] = 1

    def make(self, rows: Numbers, unmade: Bool[np.ndarray, " n"], into: dict[str, Tensor]) -> None:
        """Give first values to those of `rows`, counted within the table, that are `unmade`.

        Their fields are those of records of zeros; only the centres' random columns are not 0.
        """
        number = torch.from_numpy(rows[unmade] + self.start)
        columns = self.random_columns
        values = initial_rows_of(number, embedding_dim=columns, seed=self.seed)
        places = torch.from_numpy(np.flatnonzero(unmade))
        into["centre"][places, :columns] = values.to(self.dtype)


def as_bytes(tensor: Tensor) -> UInt8[np.ndarray, "n bytes"]:
    """A contiguous [n, width] tensor's memory."""
    return tensor.view(torch.uint8).numpy()


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
