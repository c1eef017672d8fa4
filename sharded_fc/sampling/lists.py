"""Which rows are in which list, laid out so that a list is read in one run."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

LEAST_ROOM = 32
"""Places that a list has free when it is laid out, at least."""


@dataclass(frozen=True)
class Lists:
    """List l has the `count[l]` members from place `start[l]` on, and room up to `start[l + 1]`.

    `member` and `code` (in words of 64 bits) are by place; `place` and `list_of` by row. The order
    within a list means nothing.
    """

    start: Int[Tensor, " edges"]
    count: Int[Tensor, " lists"]
    member: Int[Tensor, " places"]
    code: Int[Tensor, "words places"]
    place: Int[Tensor, " rows"]
    list_of: Int[Tensor, " rows"]

    @classmethod
    def lay_out(
        cls, list_of: Int[Tensor, " rows"], code: Int[Tensor, "words rows"], *, num_lists: int
    ) -> "Lists":
        """Lists of rows 0, 1, ..., whose lists and codes are given, with a quarter of room."""
        device = code.device
        count = torch.bincount(list_of, minlength=num_lists)
        start = torch.zeros(num_lists + 1, dtype=torch.int64, device=device)
        start[1:] = (count + count // 4 + LEAST_ROOM).cumsum(0)
        order = list_of.sort(stable=True).indices
        before = count.cumsum(0) - count
        place = torch.arange(len(list_of), device=device)
        place += (start[:-1] - before).repeat_interleave(count, output_size=len(list_of))
        places = int(start[-1])
        member = torch.zeros(places, dtype=torch.int32, device=device)
        member[place] = order.to(torch.int32)
        by_place = code.new_zeros(len(code), places)
        by_place[:, place] = code[:, order]
        of_row = torch.empty_like(list_of, dtype=torch.int32)
        of_row[order] = place.to(torch.int32)
        return cls(start, count, member, by_place, of_row, list_of.to(torch.int32))

    def with_rows(
        self,
        index: Int[Tensor, " n"],
        number: Int[Tensor, " n"],
        code: Int[Tensor, "words n"],
    ) -> "Lists":
        """Laid out anew, some rows in other lists and with other codes."""
        list_of = self.list_of.clone()
        list_of[index] = number
        by_row = self.code[:, self.place.long()]
        by_row[:, index] = code
        return Lists.lay_out(list_of, by_row, num_lists=len(self.count))
