"""Pairs of classes whose centres are so alike that they may be one person: a list to look at."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sharded_fc.centres import cosines, read_centres
from sharded_fc.collectives import Layout, Ranks
from sharded_fc.files import together, written_beside
from sharded_fc.partition import chunks
from sharded_fc.present_rows import ReadableRows

HEADER = ["class_a", "class_b", "cosine"]

_BLOCK_CLASSES = 8192  # of all ranks at once: 16 MiB at 512 columns


@dataclass(frozen=True)
class Suggestions:
    """How many pairs there are above the threshold, and how many of them the file has."""

    found: int
    written: int

    @property
    def dropped(self) -> int:
        """The least alike, left out of the file."""
        return self.found - self.written


@torch.no_grad()
def merge_suggestions(
    path: Path,
    *,
    threshold: float,
    rows: ReadableRows,
    ranks: Ranks,
    embedding_dim: int,
    sub_centres: int = 1,
    most: int = 100_000,
    chunk_classes: int = 1024,
) -> Suggestions:
    """Write the pairs of classes with a cosine above `threshold` to a CSV, the most alike first.

    Its columns are class_a < class_b and their cosine; of equal cosines the lower classes come
    first. With sub-centres two classes are as alike as their most alike ones. At most `most` pairs
    are kept. Every rank calls it with its own rows and gets the same answer; rank 0 writes. The
    work grows with the square of the classes: each pair of ranks is compared once, by one of them.
    Memory is a block of every rank's centres, 8,192 in all, a chunk of cosines and the pairs kept.

    Collectives: one all_gather of an integer; one of centres for each block; one of two integers,
    one of cosines, one of classes; one of an integer.

    Raises:
        ValueError: threshold or most is out of range.
        OSError: on every rank, where rank 0 could not write.
    """
    if not -1 <= threshold < 1:
        raise ValueError(f"threshold {threshold}; use a cosine in [-1, 1)")
    if most < 1:
        raise ValueError(f"most {most}; keep at least 1 pair")
    device = rows.device
    reading = {"sub_centres": sub_centres, "embedding_dim": embedding_dim}
    own_classes = len(rows) // sub_centres
    sizes = [n for (n,) in ranks.exchange_integers([own_classes], device=device)]
    starts = [sum(sizes[:rank]) for rank in range(ranks.size)]
    pairs = _Pairs(threshold=threshold, most=most, device=device)
    each = max(1, _BLOCK_CLASSES // ranks.size)
    for first in range(0, max(sizes), each):
        layout = Layout(tuple(min(max(size - first, 0), each) for size in sizes))
        own = _unit(rows, min(first, own_classes), min(first + each, own_classes), **reading)
        padded = own.new_zeros(layout.capacity, *own.shape[1:])
        padded[: len(own)] = own
        gathered = ranks.all_gather(padded)
        for other in _compared(ranks.rank, ranks.size):
            block = gathered[other, : layout.counts[other]]
            row = torch.arange(len(block), device=device) + (starts[other] + first)
            for start, stop in chunks(own_classes, chunk_classes):
                cosine = cosines(block, _unit(rows, start, stop, **reading))
                column = torch.arange(start, stop, device=device) + starts[ranks.rank]
                if other == ranks.rank:
                    cosine.masked_fill_(row.unsqueeze(1) >= column, -torch.inf)
                pairs.add(cosine, row, column)
    pairs.gather(ranks)
    together(lambda: pairs.write(path), takes_part=ranks.rank == 0, ranks=ranks, device=device)
    return Suggestions(found=pairs.found, written=len(pairs.cosine))


def _unit(
    rows: ReadableRows, start: int, stop: int, *, sub_centres: int, embedding_dim: int
) -> Tensor:
    centres = read_centres(rows, start, stop, sub_centres=sub_centres, embedding_dim=embedding_dim)
    return normalize(centres, dim=2)


def _compared(rank: int, size: int) -> list[int]:
    """The ranks whose blocks this one compares: itself, and half of the others, each pair once."""
    ahead = [((rank + step) % size, step) for step in range(1, size // 2 + 1)]
    return [rank] + [other for other, step in ahead if 2 * step < size or rank < other]


class _Pairs:
    """The best pairs so far, the most alike first."""

    def __init__(self, *, threshold: float, most: int, device: torch.device) -> None:
        self.threshold = threshold
        self.most = most
        self.found = 0
        self.cosine = torch.empty(0, dtype=torch.float64, device=device)
        self.label = torch.empty(0, 2, dtype=torch.int64, device=device)

    def add(self, cosine: Tensor, row: Tensor, column: Tensor) -> None:
        """Every entry above the threshold is a pair of a class in `row` and one in `column`."""
        above = cosine > self.threshold
        self.found += int(above.sum())
        if len(self.cosine) == self.most:
            above &= cosine >= self.cosine[-1]
        a, b = above.nonzero().unbind(1)
        self._extend(cosine[a, b].double(), torch.stack([row[a], column[b]], 1).sort(dim=1).values)

    def gather(self, ranks: Ranks) -> None:
        """Put all ranks' pairs together, on every rank."""
        facts = ranks.exchange_integers([len(self.cosine), self.found], device=self.cosine.device)
        layout = Layout(tuple(fact[0] for fact in facts))
        if not layout.total:
            return
        cosine = self.cosine.new_zeros(layout.capacity)
        cosine[: len(self.cosine)] = self.cosine
        label = self.label.new_zeros(layout.capacity, 2)
        label[: len(self.label)] = self.label
        self.found = sum(fact[1] for fact in facts)
        self.cosine, self.label = self.cosine[:0], self.label[:0]
        self._extend(
            layout.compact(ranks.all_gather(cosine)), layout.compact(ranks.all_gather(label))
        )

    def write(self, path: Path) -> None:
        with written_beside(path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for (a, b), cosine in zip(self.label.tolist(), self.cosine.tolist(), strict=True):
                writer.writerow((a, b, f"{cosine:.6f}"))

    def _extend(self, cosine: Tensor, label: Tensor) -> None:
        """Keep the best of the kept ones and these: by cosine, then by classes."""
        if not len(cosine):
            return
        cosine = torch.cat([self.cosine, cosine])
        label = torch.cat([self.label, label])
        order = label[:, 1].argsort(stable=True)
        order = order[label[order, 0].argsort(stable=True)]
        order = order[cosine[order].argsort(stable=True, descending=True)][: self.most]
        self.cosine, self.label = cosine[order], label[order]
