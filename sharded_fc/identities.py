"""Edit the identities of saved rows: keep, merge, split, drop and add classes, as a stream.

Blocks of the old head go in, blocks of the new head come out, for `ShardedHead.load`. Nothing
holds the whole table: memory is a block and a window of rows that wait for their merging. Files,
data sets and their labels are not touched.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sharded_fc.identity_map import IdentityMap
from sharded_fc.initial import INITIAL_STD, initial_rows
from sharded_fc.merging import merge
from sharded_fc.reshard import gaps
from sharded_fc.storage import Block

# What parts the copies of a split class, against the row's length: 0.6 degrees. A bfloat16 row has
# steps of 2^-8 = 0.004, so that less would be lost in storage.
PARTING = 0.01
_PARTING_SEED = 0x73706C6974  # "split": the copies' noise is not the initial rows'

_BLOCK_ROWS = 65536


@dataclass(frozen=True, eq=False)
class Means:
    """Unit mean directions of some new classes, ascending; a zero row where no sample was seen."""

    label: Int[Tensor, " classes"]
    direction: Float[Tensor, "classes dim"]


def mean_embeddings(
    stream: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: Int[Tensor, " classes"],
    embedding_dim: int,
) -> Means:
    """The mean direction of each of `classes` over a stream of (embedding, new label).

    Every embedding counts with length 1. Labels of other classes are passed over, so that memory is
    a row for each of `classes`, in float64: pass the map's `fresh`.
    """
    wanted = classes.unique()
    total = torch.zeros(len(wanted), embedding_dim, dtype=torch.float64)
    for embedding, label in stream:
        found = torch.isin(label.cpu(), wanted)
        place = torch.searchsorted(wanted, label.cpu()[found])
        total.index_add_(0, place, normalize(embedding.cpu()[found].double(), dim=1))
    return Means(wanted, normalize(total, dim=1))


def edited(
    blocks: Callable[[], Iterable[Block]],
    identities: IdentityMap,
    *,
    embedding_dim: int,
    seed: int,
    sub_centres: int = 1,
    image_counts: Int[Tensor, " old"] | None = None,
    means: Means | None = None,
    window_rows: int = _BLOCK_ROWS,
) -> Iterator[Block]:
    """The rows of the new classes, in blocks of no particular order that cover each row once.

    `blocks()` gives the saved rows of all ranks, in any cut and order; it is called once, and once
    more for every `window_rows` rows that merged classes are made of.

    - A kept class has its rows, bit for bit, optimizer rows included.
    - A merged class has the sum of the unit centres for its direction and their mean length;
      optimizer rows, first moments and second, are means; wins add up. Classes weigh as many
      images as `image_counts` says (at least one), or the same. Sub-centres have no order: each is
      merged with that of the first class that it is most like, one to one.
    - The new classes that share an old one (a split) each get noise of `PARTING` times the row's
      length, a hash of (seed, new row): equal rows would get equal gradients from every sample
      that is neither's own, and part late or never.
    - A new identity has its direction in `means`, in its first sub-centre, at the length of an
      initial row; other rows are the initial rows of (seed, new row). The rest is 0.
    - Columns of the centres past `embedding_dim`, the bias of a plain softmax, go along: kept,
      averaged, and 0 for a new identity.

    Raises:
        ValueError: at once, where arguments do not fit; while streaming, where the blocks are not
            all rows of `identities.num_old` classes.
    """
    if sub_centres < 1:
        raise ValueError(f"sub_centres {sub_centres}; use at least 1")
    if image_counts is not None and len(image_counts) != identities.num_old:
        raise ValueError(
            f"image_counts has {len(image_counts)} entries; pass one for each of the "
            f"{identities.num_old} old classes"
        )
    if means is not None and means.direction.shape[1] != embedding_dim:
        raise ValueError(
            f"means have {means.direction.shape[1]} columns; pass those of {embedding_dim}-wide "
            "embeddings"
        )
    edit = _Edit(identities, embedding_dim, sub_centres, seed, image_counts, means)
    return edit.stream(blocks, window_rows)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Old classes, ascending, and where each goes: a class of the new head or a buffer's place."""

    old: Tensor
    place: Tensor

    @classmethod
    def of(cls, old: Tensor, place: Tensor) -> "_Pairs":
        order = old.argsort(stable=True)
        return cls(old[order], place[order])

    def rows(self, first: int, num_rows: int, sub_centres: int) -> tuple[Tensor, Tensor]:
        """(rows of a block, rows where they go); a block may begin or end within a class."""
        classes = torch.tensor([first // sub_centres, -(-(first + num_rows) // sub_centres)])
        begin, end = torch.searchsorted(self.old, classes).tolist()
        inner = torch.arange(sub_centres)
        source = (self.old[begin:end, None] * sub_centres + inner).flatten() - first
        target = (self.place[begin:end, None] * sub_centres + inner).flatten()
        inside = (source >= 0) & (source < num_rows)
        return source[inside], target[inside]


@dataclass(frozen=True, eq=False)
class _Edit:
    identities: IdentityMap
    embedding_dim: int
    sub_centres: int
    seed: int
    image_counts: Tensor | None
    means: Means | None

    def stream(self, blocks: Callable[[], Iterable[Block]], window_rows: int) -> Iterator[Block]:
        """One pass for kept classes and the first window of merged ones, one for each other."""
        num_sources = self.identities.num_sources
        label = torch.arange(self.identities.num_new).repeat_interleave(num_sources)
        single = num_sources[label] == 1
        kept = _Pairs.of(self.identities.old[single], label[single])
        shared = self._shared(label)
        windows = self._windows(window_rows) or [[]]
        for window in windows:
            ranges = [self.identities.offset[c : c + 2].tolist() for c in window]
            pairs = torch.cat([torch.arange(a, b) for a, b in ranges] or [label[:0]])
            waiting = _Pairs.of(self.identities.old[pairs], torch.arange(len(pairs)))
            buffer: dict[str, Tensor] = {}
            template: dict[str, Tensor] = {}
            for first, tensors in self._checked(blocks()):
                num_rows = len(tensors["centre"])
                if not buffer:
                    rows = len(pairs) * self.sub_centres
                    buffer = {n: t.new_empty(rows, t.shape[1]) for n, t in tensors.items()}
                    template = {n: t.new_empty(0, t.shape[1]) for n, t in tensors.items()}
                source, target = waiting.rows(first, num_rows, self.sub_centres)
                for name, tensor in tensors.items():
                    buffer[name][target] = tensor[source]
                if window is windows[0]:
                    for block in _runs(tensors, *kept.rows(first, num_rows, self.sub_centres)):
                        yield self._parted(block, shared)
            yield from self._merged(window, buffer, shared)
            if window is windows[0]:
                yield from self._fresh(template)

    def _shared(self, label: Tensor) -> Tensor:
        """For each new class, whether one of its old classes is in another new class too."""
        copies = self.identities.old.bincount(minlength=self.identities.num_old)
        shared = torch.zeros(self.identities.num_new, dtype=torch.bool)
        shared[label[copies[self.identities.old] > 1]] = True
        return shared

    def _windows(self, window_rows: int) -> list[list[int]]:
        """Merged classes, cut so that their sources fit `window_rows` rows; at least one each."""
        windows: list[list[int]] = []
        room = 0
        num_sources = self.identities.num_sources
        for label in (num_sources > 1).nonzero().squeeze(1).tolist():
            rows = int(num_sources[label]) * self.sub_centres
            if not windows or rows > room:
                windows.append([])
                room = window_rows
            windows[-1].append(label)
            room -= rows
        return windows

    def _checked(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks as they come; refuses rows that do not exist or are missing."""
        num_rows = self.identities.num_old * self.sub_centres
        covered = []
        for first, tensors in blocks:
            stop = first + len(tensors["centre"])
            if first < 0 or stop > num_rows:
                raise ValueError(
                    f"a block holds rows [{first}, {stop}), the identity map is of {num_rows}: "
                    f"{self.identities.num_old} classes with {self.sub_centres} rows each"
                )
            covered.append((first, stop))
            yield first, tensors
        if missing := gaps(covered, num_rows=num_rows):
            pieces = ", ".join(f"[{a}, {b})" for a, b in missing)
            raise ValueError(f"no block holds rows {pieces}; pass every block of the checkpoint")

    def _parted(self, block: Block, shared: Tensor) -> Block:
        """The block, with noise on the rows of classes that share an old class."""
        first, tensors = block
        stop = first + len(tensors["centre"])
        noisy = shared[torch.arange(first, stop) // self.sub_centres]
        if not noisy.any():
            return block
        centre = tensors["centre"].clone()
        direction = centre[:, : self.embedding_dim]
        noise = self._initial(first, stop, seed=self.seed ^ _PARTING_SEED).double()
        length = torch.linalg.vector_norm(direction.double(), dim=1, keepdim=True)
        moved = direction + PARTING * length * normalize(noise, dim=1)
        direction.copy_(torch.where(noisy.unsqueeze(1), moved.to(centre.dtype), direction))
        return first, {**tensors, "centre": centre}

    def _merged(
        self, window: list[int], buffer: dict[str, Tensor], shared: Tensor
    ) -> Iterator[Block]:
        begin = 0
        for label in window:
            sources = torch.tensor(self.identities.sources(label))
            end = begin + len(sources) * self.sub_centres
            rows = {
                name: t[begin:end].view(len(sources), self.sub_centres, t.shape[1])
                for name, t in buffer.items()
            }
            begin = end
            weight = torch.ones(len(sources), dtype=torch.float64)
            if self.image_counts is not None:
                weight = self.image_counts[sources].clamp_min(1).double()
            merged = merge(rows, weight, embedding_dim=self.embedding_dim)
            first = label * self.sub_centres
            direction = merged["centre"][:, : self.embedding_dim]
            # Opposite or zero centres have no direction to keep.
            lost = (direction == 0).all(1, keepdim=True)
            start = self._initial(first, first + len(direction), seed=self.seed)
            direction.copy_(torch.where(lost, start.to(direction.dtype), direction))
            yield self._parted((first, merged), shared)

    def _fresh(self, template: dict[str, Tensor]) -> Iterator[Block]:
        fresh = self.identities.fresh
        runs = fresh.tensor_split((fresh.diff() != 1).nonzero().squeeze(1) + 1)
        each = max(1, _BLOCK_ROWS // self.sub_centres)
        for classes in (piece for run in runs for piece in run.split(each) if len(piece)):
            first, stop = int(classes[0]), int(classes[-1]) + 1
            rows = (stop - first) * self.sub_centres
            tensors = {name: t.new_zeros(rows, t.shape[1]) for name, t in template.items()}
            direction = tensors["centre"][:, : self.embedding_dim]
            begin = first * self.sub_centres
            direction.copy_(self._initial(begin, begin + rows, seed=self.seed))
            self._point(direction[:: self.sub_centres], first)
            yield begin, tensors

    def _point(self, centre: Tensor, first: int) -> None:
        """Turn the first sub-centres of classes from `first` on to their means, where known."""
        if self.means is None:
            return
        begin, end = torch.searchsorted(
            self.means.label, torch.tensor([first, first + len(centre)])
        ).tolist()
        direction = self.means.direction[begin:end]
        seen = (direction != 0).any(1)
        place = self.means.label[begin:end][seen] - first
        length = INITIAL_STD * centre.shape[1] ** 0.5
        centre[place] = (direction[seen] * length).to(centre.dtype)

    def _initial(self, start: int, stop: int, *, seed: int) -> Tensor:
        cpu = torch.device("cpu")
        return initial_rows(start, stop, embedding_dim=self.embedding_dim, seed=seed, device=cpu)


def _runs(tensors: dict[str, Tensor], source: Tensor, target: Tensor) -> Iterator[Block]:
    """Blocks of the rows `source`, cut where the rows `target` do not follow on each other."""
    target, order = target.sort()
    cuts = (target.diff() != 1).nonzero().squeeze(1) + 1
    for own, there in zip(source[order].tensor_split(cuts), target.tensor_split(cuts), strict=True):
        if len(there):
            yield int(there[0]), {name: tensor[own] for name, tensor in tensors.items()}
