"""Which old classes each new class is made of: keeping, merging, splitting, dropping, adding.

Integers only; `identities.py` carries a map out on saved rows.
"""

import csv
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.files import written_beside

HEADER = ["new", "old"]
_NOTHING = -(1 << 63)  # in the place of an old class: the new class is made of none

_ROWS_AT_ONCE = 65536


@dataclass(frozen=True, eq=False)
class IdentityMap:
    """New class c is made of the old classes `old[offset[c] : offset[c + 1]]`, in ascending order.

    One old class: kept. Several: merged. An old class under several new ones: split; under none:
    dropped. No old class at all: a new identity.
    """

    num_old: int
    offset: Int[Tensor, " new_plus_one"]
    old: Int[Tensor, " pairs"]

    @classmethod
    def of(cls, sources: Iterable[Sequence[int]], *, num_old: int) -> "IdentityMap":
        """`sources[c]` are the old classes of new class c.

        Raises:
            ValueError: an old class is out of range or twice in one new class.
        """
        new, old = array("q"), array("q")
        for label, classes in enumerate(sources):
            for source in classes or (_NOTHING,):
                new.append(label)
                old.append(source)
        return cls._of_pairs(_tensor(new), _tensor(old), num_old=num_old)

    @classmethod
    def merging(cls, pairs: Iterable[tuple[int, int]], *, num_old: int) -> "IdentityMap":
        """Classes that pairs connect, directly or through others, become one; the rest is kept.

        New classes are numbered by the lowest old class in them.

        Raises:
            ValueError: a class is out of range.
        """
        lowest: dict[int, int] = {}

        def root(label: int) -> int:
            while (above := lowest.setdefault(label, label)) != label:
                lowest[label] = lowest[above]  # halves the path for those that come after
                label = above
            return label

        for a, b in pairs:
            first, second = sorted((root(a), root(b)))
            lowest[second] = first
        touched = array("q", lowest)
        _check_old(_tensor(touched), num_old=num_old)
        group = torch.arange(num_old)
        group[_tensor(touched)] = _tensor(array("q", map(root, touched)))
        new = group.unique(return_inverse=True)[1]
        return cls._of_pairs(new, torch.arange(num_old), num_old=num_old)

    @classmethod
    def read(cls, path: Path, *, num_old: int) -> "IdentityMap":
        """From a CSV with the columns new, old: a row for each old class of a new class.

        A new identity has one row with nothing after the comma.

        Raises:
            ValueError: a row is not two numbers, an old class is out of range, a row is there
                twice, or the new classes are not 0, 1, 2, ... without a gap.
        """
        new, old = array("q"), array("q")
        with path.open(newline="") as file:
            reader = csv.reader(file)
            if next(reader, None) != HEADER:
                raise ValueError(f"{path}: the first line must be {','.join(HEADER)}")
            for row in reader:
                try:
                    label, source = row
                    new.append(int(label))
                    old.append(int(source) if source.strip() else _NOTHING)
                except (ValueError, OverflowError):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {','.join(row)!r} is not a new class, a"
                        " comma, and an old class or nothing"
                    ) from None
        try:
            return cls._of_pairs(_tensor(new), _tensor(old), num_old=num_old)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """As `read` reads it, new identities last; an existing file is replaced as a whole."""
        new = torch.arange(self.num_new).repeat_interleave(self.num_sources)
        with written_beside(path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for pairs in torch.stack([new, self.old], 1).split(_ROWS_AT_ONCE):
                writer.writerows(pairs.tolist())
            for labels in self.fresh.split(_ROWS_AT_ONCE):
                writer.writerows((label, "") for label in labels.tolist())

    @property
    def num_new(self) -> int:
        """Classes after the edit."""
        return len(self.offset) - 1

    @property
    def num_sources(self) -> Int[Tensor, " new"]:
        """How many old classes each new class is made of."""
        return self.offset.diff()

    @property
    def fresh(self) -> Int[Tensor, " fresh"]:
        """The new identities: classes made of no old one."""
        return (self.num_sources == 0).nonzero().squeeze(1)

    def sources(self, label: int) -> tuple[int, ...]:
        """The old classes of new class `label`."""
        first, last = self.offset[label : label + 2].tolist()
        return tuple(self.old[first:last].tolist())

    @classmethod
    def _of_pairs(cls, new: Tensor, old: Tensor, *, num_old: int) -> "IdentityMap":
        if not len(new):
            raise ValueError("the map has no new class; name at least one")
        _check_old(old[old != _NOTHING], num_old=num_old)
        order = old.argsort(stable=True)
        order = order[new[order].argsort(stable=True)]
        new, old = new[order], old[order]
        _check_new(new)
        again = (new.diff() == 0) & (old.diff() == 0)
        if again.any():
            at = int(again.int().argmax())
            raise ValueError(
                f"old class {int(old[at])} is twice in new class {int(new[at])}; name it once"
                if old[at] != _NOTHING
                else f"new class {int(new[at])} is twice without an old class; name it once"
            )
        beside = (old[:-1] == _NOTHING) & (new.diff() == 0)
        if beside.any():
            at = int(beside.int().argmax())
            raise ValueError(
                f"new class {int(new[at])} has a row without an old class beside old class "
                f"{int(old[at + 1])}; remove the one that is wrong"
            )
        made = old != _NOTHING
        counts = new[made].bincount(minlength=int(new[-1]) + 1)
        return cls(num_old, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), old[made])


def _check_old(old: Tensor, *, num_old: int) -> None:
    outside = (old < 0) | (old >= num_old)
    if outside.any():
        raise ValueError(
            f"old class {int(old[outside][0])} does not exist: the saved rows are of "
            f"{num_old} classes, 0 to {num_old - 1}"
        )


def _check_new(new: Tensor) -> None:
    """`new` is sorted."""
    if new[0] < 0:
        raise ValueError(f"new class {int(new[0])} is below 0")
    present = new.unique()
    if len(present) != int(new[-1]) + 1:
        missing = int((present != torch.arange(len(present))).int().argmax())
        raise ValueError(
            f"new class {missing} is missing below new class {int(new[-1])}; number the new "
            "classes 0, 1, 2, ... without a gap"
        )


def _tensor(values: "array[int]") -> Tensor:
    return torch.frombuffer(values, dtype=torch.int64) if values else torch.empty(0).long()
