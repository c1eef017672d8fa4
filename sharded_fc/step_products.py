"""Products of the 2 x 2 matrices of past steps, from any step up to now, in float64.

Kept over blocks of 1, 2, 4, ... steps, so that a product over t steps takes about log2(t)
multiplications and loses no digits. (Prefix products would need their inverses, whose relative
error after t steps grows as momentum^-t: 32 after 100.)
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_FIRST_CAPACITY = 1024


class StepProducts:
    """Of `groups` sequences of matrices that grow together, one each a step.

    Blocks of 2^l steps begin at multiples of 2^l. `table[g]` holds the products of the blocks of
    one step, then of two steps, and so on, each level half as long, and last the identity; a block
    that is not full yet holds its product up to now. Nothing here waits for an accelerator but
    `since`.
    """

    def __init__(self, groups: int, *, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        """Steps kept."""
        self.most = 0
        """A bound on them that the host knows."""
        self._capacity = _FIRST_CAPACITY
        self._table = self._empty(groups, device)

    def clear(self) -> None:
        """Forget all steps."""
        self.count = torch.zeros_like(self.count)
        self.most = 0
        self._capacity = _FIRST_CAPACITY
        self._table = self._empty(len(self._table), self._table.device)

    def state(self) -> dict[str, Tensor]:
        """All that is kept, on the host."""
        return {
            "products": self._table.to("cpu", copy=True),
            "steps": self.count.reshape(1).to("cpu", copy=True),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave, of as many groups.

        Raises:
            ValueError: it is of other sequences.
        """
        table, count = state["products"], state["steps"]
        if len(table) != len(self._table):
            raise ValueError(
                f"the saved history has {len(table)} learning rates a step, not "
                f"{len(self._table)}; keep learning_rate_ratios"
            )
        self._table = table.to(self.count.device, copy=True)
        self._capacity = table.shape[1] // 2
        self.count = count[0].to(self.count.device, copy=True)
        self.most = int(count)

    def append(self, matrix: Float[Tensor, "groups 2 2"], *, keep: Bool[Tensor, ""]) -> None:
        """Add a step with each group's matrix, unless it is not to be kept."""
        if self.most + 1 == self._capacity:
            self._grow()
        self.most += 1
        level = torch.arange(self._levels, device=self.count.device)
        place = self._place(self.count, level)
        old = self._table[:, place]
        begins = (self.count & ((1 << level) - 1)) == 0
        before = torch.where(begins.view(-1, 1, 1), self._identity, old)
        new = matrix.to(old.device).unsqueeze(1) @ before
        self._table[:, place] = torch.where(keep, new, old)
        self.count = self.count + keep

    def since(self, first: Int[Tensor, " n"], group: Int[Tensor, " n"]) -> Float[Tensor, "n 2 2"]:
        """Each row's product of the matrices of its group from step `first` up to now."""
        distinct, of_row = torch.unique(first * len(self._table) + group, return_inverse=True)
        reached = distinct // len(self._table)
        of_group = distinct % len(self._table)
        product = self._identity.expand(len(distinct), 2, 2)
        for number in range(self.most.bit_length() + 1):
            level = torch.full_like(reached, number)
            last = (reached >> number) == (self.count >> number)
            taken = last & (reached < self.count) | ~last & ((reached >> number) & 1 == 1)
            place = torch.where(taken, self._place(reached, level), 2 * self._capacity - 1)
            product = self._table[of_group, place] @ product
            reached = torch.where(last, self.count, reached + (taken.long() << number))
        return product[of_row]

    @property
    def _levels(self) -> int:
        return self._capacity.bit_length()

    @property
    def _identity(self) -> Tensor:
        return self._table[0, -1]

    def _place(self, step: Tensor, level: Tensor) -> Tensor:
        return 2 * self._capacity - ((2 * self._capacity) >> level) + (step >> level)

    def _empty(self, groups: int, device: torch.device) -> Tensor:
        one = torch.eye(2, dtype=torch.float64, device=device)
        return one.repeat(groups, 2 * self._capacity, 1, 1)

    def _grow(self) -> None:
        old, length = self._table, self._capacity
        self._capacity *= 2
        self._table = self._empty(len(old), old.device)
        begin_old = begin_new = 0
        while length:
            kept = old[:, begin_old : begin_old + length]
            self._table[:, begin_new : begin_new + length] = kept
            begin_old, begin_new, length = begin_old + length, begin_new + 2 * length, length // 2
        self._table[:, begin_new] = old[:, -2]  # all so far: the first block of the new level
