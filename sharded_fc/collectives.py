"""The few exchanges the head makes between ranks, over one process group or none.

Everything here moves values; nothing knows what a class or a margin is. Without a group, and in a
group of one, the same calls communicate nothing. That saves more than a copy: gloo copies large
tensors in threads of its own, each of which gets a team of OpenMP threads, and once there are more
of those than cores every parallel region of the process waits asleep for its threads (libgomp's
throttled spin count).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

# torch 2.13 renames these two and warns at the old names; older releases have only the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the classes. `group=None` is one process alone."""

    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> "Ranks":
        """The given group, else the default group where one is initialised, else one rank."""
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        return cls(group)

    @property
    def rank(self) -> int:
        """Place of this process in the group."""
        return 0 if self.group is None else self.group.rank()

    @property
    def size(self) -> int:
        """Processes in the group."""
        return 1 if self.group is None else self.group.size()

    def all_gather(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """Stack every rank's `tensor` (one shape everywhere) along a new first axis."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        gathered = tensor.new_empty(self.size * tensor.shape[0], *tensor.shape[1:])
        _all_gather(gathered, tensor.contiguous(), group=self.group)
        return gathered.view(self.size, *tensor.shape)

    def start_all_gather(
        self, tensor: Shaped[Tensor, "..."]
    ) -> Callable[[], Shaped[Tensor, "..."]]:
        """Begin `all_gather`; the call it returns waits for the result."""
        if self.size == 1:
            return lambda: tensor.unsqueeze(0)
        sent = tensor.contiguous()
        gathered = tensor.new_empty(self.size * tensor.shape[0], *tensor.shape[1:])
        work = _all_gather(gathered, sent, group=self.group, async_op=True)
        assert work is not None

        def wait() -> Tensor:
            work.wait()
            return gathered.view(self.size, *sent.shape)

        return wait

    def reduce_scatter(self, tensor: Float[Tensor, "world rows dim"]) -> Float[Tensor, "rows dim"]:
        """The sum over ranks of slice `rank` of `tensor`."""
        if self.size == 1:
            return tensor[0]
        mine = tensor.new_empty(tensor.shape[1:])
        _reduce_scatter(mine, tensor.flatten(0, 1), group=self.group)
        return mine

    def exchange_integers(self, values: list[int], *, device: torch.device) -> list[list[int]]:
        """Every rank's `values`, on the host.

        Goes over gloo where the group has it, so that an accelerator's queue is not waited for.
        """
        if self.size == 1 or self.group is None:
            return [values]
        where = "cpu" if "gloo" in dist.get_backend_config(self.group) else device
        return self.all_gather(torch.tensor(values, dtype=torch.int64, device=where)).tolist()


@dataclass(frozen=True)
class Layout:
    """Where each rank's samples lie in the global batch: rank after rank, without padding."""

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Samples of all ranks."""
        return sum(self.counts)

    @property
    def capacity(self) -> int:
        """Rows every rank sends: the largest count, since collectives want one shape."""
        return max(self.counts)

    def compact(self, padded: Shaped[Tensor, "world rows ..."]) -> Shaped[Tensor, "batch ..."]:
        """Drop the padding rows."""
        if min(self.counts) == self.capacity:
            return padded.flatten(0, 1)
        pieces = [rows[:count] for rows, count in zip(padded, self.counts, strict=True)]
        return torch.cat(pieces)

    def pad(self, compact: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "world rows ..."]:
        """The inverse of `compact`, with zeros."""
        shape = (len(self.counts), self.capacity, *compact.shape[1:])
        if min(self.counts) == self.capacity:
            return compact.view(shape)
        padded = compact.new_zeros(shape)
        for rows, piece in zip(padded, compact.split(list(self.counts)), strict=True):
            rows[: len(piece)] = piece
        return padded

    def owner(self, *, device: torch.device) -> Int[Tensor, " batch"]:
        """The rank that each sample of the global batch came from."""
        ranks = [rank for rank, count in enumerate(self.counts) for _ in range(count)]
        return torch.tensor(ranks, dtype=torch.int64, device=device)


def gather_batch(
    ranks: Ranks,
    layout: Layout,
    embedding: Float[Tensor, "own dim"],
    numbers: Int[Tensor, "own extras"],
) -> tuple[Float[Tensor, "batch dim"], Int[Tensor, "batch extras"]]:
    """Every rank's embeddings and some integers for each, in rank order.

    Collectives: one all_gather; an integer travels as the bits of the last columns of its row.
    """
    dim = embedding.shape[1]
    bits = numbers.contiguous().view(embedding.dtype)
    packed = embedding.new_zeros(layout.capacity, dim + bits.shape[1])
    packed[: len(embedding), :dim] = embedding
    packed[: len(embedding), dim:] = bits
    gathered = layout.compact(ranks.all_gather(packed))
    return gathered[:, :dim].contiguous(), gathered[:, dim:].contiguous().view(torch.int64)


def scatter_gradient(
    ranks: Ranks, layout: Layout, gradient: Float[Tensor, "batch dim"]
) -> Float[Tensor, "own dim"]:
    """The sum over ranks of `gradient`, cut to this rank's own samples.

    Collectives: one reduce_scatter.
    """
    return ranks.reduce_scatter(layout.pad(gradient))[: layout.counts[ranks.rank]]
