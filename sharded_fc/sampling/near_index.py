"""One rank's rows in inverted lists, and the rows of them that are nearest to given embeddings.

A row is found by its signature (`signatures.py`): of the lists nearest to an embedding, the members
whose codes differ least from its own. Distances are integers and equal ones are told apart by the
row's number, so that what is found over all ranks does not depend on who owns which rows.

Nothing in here is saved: the index is a function of the rows whenever it is built, which it is
after `renew()`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import native_near
from sharded_fc.partition import chunks
from sharded_fc.sampling.lists import Lists
from sharded_fc.sampling.signatures import Signatures
from sharded_fc.storage import Rows

KEY_BITS = 40
"""A key is (bits that differ, global row number); the latter in so many bits."""
NOTHING = torch.iinfo(torch.int64).max
"""A key that stands for no row."""

_ROWS_AT_A_TIME = 65536
_CANDIDATES = 1 << 20  # at once, where there is no compiled search


class NearIndex:
    """Which of `rows` are near; for each embedding the `probes` nearest lists are looked through.

    Twice as many take twice as long and find up to half as many again.
    """

    def __init__(self, rows: Rows, signatures: Signatures, *, probes: int) -> None:
        self._rows = rows
        self._signatures = signatures
        self.probes = min(probes, signatures.num_lists)
        self._lists: Lists | None = None

    def renew(self) -> None:
        """Forget all: rows were replaced, or handed out to be saved."""
        self._lists = None

    def near(
        self,
        embedding: Float[Tensor, "queries dim"],
        *,
        most: int,
        row_range: Int[Tensor, "queries 2"] | None = None,
    ) -> Int[Tensor, "queries most"]:
        """Keys of the rows nearest to each embedding, ascending, then `NOTHING`.

        With a `row_range` [first, last) of global rows none outside of it is found for a query.
        """
        if self._lists is None:
            self._lists = self._built()
        probed, code = self._signatures.of_queries(embedding, probes=self.probes)
        found = native_near.search_lists(
            self._lists,
            probed,
            code,
            row_range=row_range,
            first_row=self._rows.start,
            most=most,
        )
        return self._search(self._lists, probed, code, row_range, most) if found is None else found

    def touch(self, index: Int[Tensor, " n"]) -> None:
        """Assign rows anew, counted within the partition, none twice."""
        if self._lists is None:
            return
        number, code = self._signatures.of_rows(self._rows.centre, index)
        done = native_near.move_rows(self._lists, index, number, code)
        if done < len(index):  # a list is full, or there is no compiled code
            self._lists = self._lists.with_rows(index[done:], number[done:], code[:, done:])

    def _built(self) -> Lists:
        rows = self._rows
        rows.ready(0, len(rows))
        device = rows.centre.device
        pieces = [
            self._signatures.of_rows(rows.centre, torch.arange(first, last, device=device))
            for first, last in chunks(len(rows), _ROWS_AT_A_TIME)
        ]
        return Lists.lay_out(
            torch.cat([number for number, _ in pieces]),
            torch.cat([code for _, code in pieces], 1),
            num_lists=self._signatures.num_lists,
        )

    def _search(
        self,
        lists: Lists,
        probed: Tensor,
        code: Tensor,
        row_range: Tensor | None,
        most: int,
    ) -> Tensor:
        found = torch.full((len(probed), most), NOTHING, device=code.device)
        each = max(1, probed.shape[1] * len(self._rows) // self._signatures.num_lists)
        for first, last in chunks(len(probed), max(1, _CANDIDATES // each)):
            asked = probed[first:last].long()
            length = lists.count[asked]
            before = length.flatten().cumsum(0) - length.flatten()
            place = torch.arange(int(length.sum()), device=code.device)
            place += (lists.start[asked].flatten() - before).repeat_interleave(length.flatten())
            query = torch.arange(last - first, device=code.device)
            query = query.repeat_interleave(length.sum(1))
            distance = _bits_set(lists.code[:, place] ^ code[:, first + query]).sum(0)
            row = lists.member[place] + self._rows.start
            key = (distance << KEY_BITS) | row
            if row_range is not None:
                low, high = row_range[first + query].unbind(1)
                key[(row < low) | (row >= high)] = NOTHING
            # By query, then by key: two stable sorts.
            key, order = key.sort()
            query, again = query[order].sort(stable=True)
            rank = torch.arange(len(query), device=code.device)
            rank = rank - torch.searchsorted(query, query)
            kept = rank < most
            found[first + query[kept], rank[kept]] = key[again][kept]
        return found


def _bits_set(word: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """How many of each integer's 64 bits are 1 (Warren, "Hacker's Delight", section 5-1)."""
    word = word - ((word >> 1) & 0x5555555555555555)
    word = (word & 0x3333333333333333) + ((word >> 2) & 0x3333333333333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (word * 0x0101010101010101) >> 56
