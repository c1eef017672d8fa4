"""Which classes a step draws besides those of its samples: a function of (seed, step) alone.

The classes are the first n of a keyed permutation of all, so there are exactly n, the same at any
world size, and each has the same probability. A rank finds those it owns in O(min(n, classes it
owns)): it goes through the n values, or asks of each of its classes whether its place is below n.
A threshold on a hash of (seed, step, class) would always cost the latter, and draw a number of
classes that varies from step to step.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc.counter import extend, extend_int, key_of
from sharded_fc.native_draw import FirstNumbers
from sharded_fc.sampling.permutation import Permutation, without_known

Quota = Literal["negatives", "peer"]

# A key's second value: see counter.ROUNDING. -4 is that of `signatures`.
NEGATIVES = -3
ORDER = -5


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Some of `num_classes` classes a step.

    `count` classes are drawn from all; with `quota="negatives"` the samples' own come on top, with
    "peer" they are among the count, as in public code (arXiv:2203.15565), whose quota is one a
    rank, though. With `block` > 1 whole blocks of that many consecutive classes are drawn, so that
    rows are read in long runs; blocks begin at multiples of `block`, whoever owns them, and the
    last may be shorter. They suit labels in random order: neighbours are drawn together. With
    `shuffled` blocks are of consecutive places in a keyed permutation of the classes, the same at
    every step: for labels in another order, at the price of the long runs.
    """

    num_classes: int
    count: int
    seed: int
    block: int = 1
    quota: Quota = "negatives"
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.num_classes:
            raise ValueError(f"a draw of {self.count} of {self.num_classes} classes")
        if self.block < 1:
            raise ValueError(f"blocks of {self.block} classes; use at least 1")
        if self.quota == "peer" and self.block > 1:
            raise ValueError("quota 'peer' is public code's, which draws no blocks; use block 1")
        if self.shuffled and self.block == 1:
            raise ValueError("shuffled is about blocks; use a block above 1, or leave it out")

    @cached_property
    def num_blocks(self) -> int:
        """What is drawn from."""
        return -(-self.num_classes // self.block)

    @cached_property
    def drawn_blocks(self) -> int:
        """How many of them: those that `count` classes make, at least one if any."""
        return min(self.num_blocks, max(round(self.count / self.block), min(self.count, 1)))

    @property
    def rate(self) -> float:
        """The probability of each class to be drawn; with "peer" where no sample has a class."""
        return self.drawn_blocks / self.num_blocks

    @cached_property
    def _key(self) -> int:
        return key_of(self.seed, NEGATIVES)

    def of_step(
        self, step: Int[Tensor, ""], positives: Int[Tensor, " positives"], *, start: int, stop: int
    ) -> tuple[Int[Tensor, " drawn"], float]:
        """The drawn classes in [start, stop), ascending, without positives; q of each of them.

        `positives` are the distinct classes of the global batch, ascending.
        """
        if self.shuffled:
            classes = self._shuffled_classes(step, start, stop, device=positives.device)
            return without_known(classes, positives), self.rate
        wanted, rate = self._wanted(len(positives))
        first, last = start // self.block, -(-stop // self.block)
        if self.drawn_blocks < last - first:
            known = positives if self.block == 1 else positives[:0]
            blocks = self._first_within(step, wanted, first, last, known)
            if self.block == 1:
                return blocks, rate
        else:
            permutation = self._permutation(step, positives.device)
            number = torch.arange(first, last, device=positives.device)
            peer = self.quota == "peer"
            end = permutation.end_of_others(wanted, positives) if peer else wanted
            blocks = number[permutation.inverse(number) < end]
        return without_known(self._classes(blocks, start, stop), positives), rate

    def _permutation(self, step: Tensor, device: torch.device) -> Permutation:
        """Of the blocks; the step's own."""
        if step.is_cpu and device.type == "cpu":
            key = extend_int(self._key, int(step))
        else:  # without waiting for the device
            key = extend(self._key, step.to(device))
        return Permutation(self.num_blocks, key, device=device)

    @cached_property
    def _first_numbers(self) -> FirstNumbers:
        """Of each step's permutation."""
        base = Permutation(self.num_blocks, self._key, device=torch.device("cpu"))
        return FirstNumbers(base.network)

    def _first_within(
        self, step: Tensor, wanted: int, first: int, last: int, known: Tensor
    ) -> Tensor:
        """Those of the first `wanted` blocks in [first, last), ascending, without the known."""
        peer = self.quota == "peer"
        found = self._first_numbers.within(
            first, last, count=wanted, others=peer, known=known, step=step
        )
        if found is not None:
            return found
        permutation = self._permutation(step, known.device)
        return permutation.first_within(wanted, first, last, without=known, others=peer)

    def _wanted(self, positives: int) -> tuple[int, float]:
        """How many blocks to draw, with "peer" of those of no positive; q of what they hold."""
        if self.quota == "negatives":
            return self.drawn_blocks, self.rate
        wanted = max(self.count - positives, 0)
        return wanted, wanted / max(self.num_classes - positives, 1)

    def _shuffled_classes(
        self, step: Tensor, start: int, stop: int, *, device: torch.device
    ) -> Tensor:
        """The drawn classes in [start, stop), where blocks are of places in the shuffled order."""
        permutation = self._permutation(step, device)
        order = Permutation(self.num_classes, key_of(self.seed, ORDER), device=device)
        if self.drawn_blocks * self.block < stop - start:
            blocks = permutation.forward(torch.arange(self.drawn_blocks, device=device))
            place = self._classes(blocks, 0, self.num_classes)
            classes = order.forward(place)
            return classes[(classes >= start) & (classes < stop)].sort().values
        classes = torch.arange(start, stop, device=device)
        block = torch.div(order.inverse(classes), self.block, rounding_mode="floor")
        return classes[permutation.inverse(block) < self.drawn_blocks]

    def _classes(self, blocks: Tensor, start: int, stop: int) -> Tensor:
        if self.block == 1:
            return blocks
        inside = torch.arange(self.block, device=blocks.device)
        classes = (blocks.unsqueeze(1) * self.block + inside).flatten()
        return classes[(classes >= start) & (classes < stop)]
