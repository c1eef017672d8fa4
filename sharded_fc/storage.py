"""One rank's rows: its classes' centres and whatever the optimizer keeps for each of them."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sharded_fc.initial import initial_rows
from sharded_fc.reshard import gaps, overlap

Block = tuple[int, dict[str, Tensor]]


class Rows:
    """Rows [start, stop) of the global table, as tensors of one dtype on one device."""

    def __init__(
        self,
        start: int,
        stop: int,
        *,
        embedding_dim: int,
        state_names: tuple[str, ...],
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.start = start
        self.stop = stop
        first = initial_rows(start, stop, embedding_dim=embedding_dim, seed=seed, device=device)
        self.centre = first.to(dtype)
        self.state = {name: torch.zeros_like(self.centre) for name in state_names}

    def __len__(self) -> int:
        return self.stop - self.start

    def state_of(self, start: int, stop: int) -> dict[str, Tensor]:
        """Views of the optimizer's rows [start, stop), counted within this partition."""
        return {name: tensor[start:stop] for name, tensor in self.state.items()}

    def blocks(self, block: int) -> Iterator[Block]:
        """Copies on the host, `block` rows at a time, each with its first global class."""
        for first in range(0, len(self), block):
            last = min(first + block, len(self))
            tensors = {"centre": self.centre, **self.state}
            copies = {name: t[first:last].to("cpu", copy=True) for name, t in tensors.items()}
            yield self.start + first, copies

    def fill(self, blocks: Iterable[Block]) -> None:
        """Take from blocks of any partitioning what belongs here; refuse to leave a gap.

        Rows are written as they come: after an error they are a mixture, and must be loaded again.
        """
        tensors = {"centre": self.centre, **self.state}
        covered = []
        for first, block in blocks:
            absent = sorted(set(tensors) - set(block))
            if absent:
                raise ValueError(
                    f"the block at class {first} has no {', '.join(absent)}; "
                    "load rows saved with the same optimizer"
                )
            width = self.centre.shape[1]
            shapes = {name: tuple(block[name].shape) for name in tensors}
            if len(set(shapes.values())) != 1 or shapes["centre"][1:] != (width,):
                raise ValueError(
                    f"the block at class {first} has shapes {shapes}, not [n, {width}]"
                )
            place = overlap(
                block_start=first,
                block_rows=len(block["centre"]),
                start=self.start,
                stop=self.stop,
            )
            if place is None:
                continue
            theirs, ours = place
            for name, tensor in tensors.items():
                tensor[ours] = block[name][theirs]
            covered.append((ours.start, ours.stop))
        missing = gaps(covered, num_rows=len(self))
        if missing:
            pieces = ", ".join(f"[{self.start + a}, {self.start + b})" for a, b in missing)
            raise ValueError(f"no block holds classes {pieces}; pass every block of the checkpoint")
