"""What a row's direction is known by: the list it belongs to, and a code of some bits.

Both come from one pseudo-random rotation: signs flipped by a hash of (seed, column), then a
Walsh-Hadamard transform. The list is that of the coordinate largest in size, and its sign
(cross-polytope hashing, Andoni et al., "Practical and Optimal LSH for Angular Distance",
arXiv:1509.02897): its centroids are the positive and negative axes of the rotated space, which
nobody has to learn, keep or send. The code is the signs of coordinates: two rows at an angle of t
differ in t / pi of them (Charikar, STOC 2002). A row of width d costs d log2(d) additions.

Lengths do not matter, and nothing but additions touches a row, so that the same row has the same
list and code on every rank, with and without compiled code.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sharded_fc import native_near
from sharded_fc.counter import extend, key_of

_FLIPS = -4  # a key's second value: see counter.ROUNDING
_LANES = 16  # the compiled transform's vectors, which fix the order of its additions and places
_MOST_BITS = 256  # random rows differ in 128 of them, give or take 8; at cosine 0.5 in 85
_ROWS_AT_A_TIME = 1024


class Signatures:
    """Lists and codes for rows of a width; about sqrt(`num_rows`) lists, two an axis.

    There are no more lists than twice the width, rounded up to a power of two.
    """

    def __init__(self, width: int, *, num_rows: int, seed: int, device: torch.device) -> None:
        self._columns = 1 << max(width - 1, 0).bit_length()
        self._directions = min(self._columns, max(1, round(math.sqrt(num_rows) / 2)))
        self._bits = min(self._columns, _MOST_BITS)
        column = torch.arange(width, device=device)
        negative = extend(key_of(seed, _FLIPS), column) < 0
        self._flips = torch.where(negative, -1.0, 1.0).float()

    @property
    def num_lists(self) -> int:
        """How many lists there are."""
        return 2 * self._directions

    @property
    def words(self) -> int:
        """Integers of 64 bits in a code."""
        return -(-self._bits // 64)

    @property
    def additions(self) -> int:
        """Of one row's transform."""
        return self._columns * (self._columns - 1).bit_length()

    def of_rows(
        self, table: Float[Tensor, "all dim"], index: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, " rows"], Int[Tensor, "words rows"]]:
        """The list (int32) and the code (64 bits a word) of the table's rows of `index`."""
        found = native_near.sign_rows(
            table,
            index,
            columns=self._columns,
            directions=self._directions,
            bits=self._bits,
            flips=self._flips,
        )
        if found is not None:
            return found
        lists, codes = [], []
        for piece in index.split(_ROWS_AT_A_TIME):
            rotated = self._rotate(table[piece])
            axis = rotated[:, : self._directions]
            place = axis.abs().argmax(1, keepdim=True)
            negative = axis.gather(1, place) < 0
            lists.append((2 * place + negative).squeeze(1).to(torch.int32))
            codes.append(self._code(rotated))
        if not lists:
            return index.to(torch.int32), index.new_empty(self.words, 0)
        return torch.cat(lists), torch.cat(codes, 1)

    def of_queries(
        self, embedding: Float[Tensor, "queries dim"], *, probes: int
    ) -> tuple[Int[Tensor, "queries probes"], Int[Tensor, "words queries"]]:
        """The lists (int32) whose axes are nearest to each embedding, and its code."""
        rotated = self._rotate(embedding)
        axis = rotated[:, : self._directions]
        if probes > self._directions:
            both = torch.stack([axis, -axis], 2).flatten(1)
            lists = both.topk(probes, dim=1).indices
        else:
            place = axis.abs().topk(probes, dim=1, sorted=False).indices
            lists = 2 * place + (axis.gather(1, place) < 0)
        return lists.to(torch.int32), self._code(rotated)

    def _rotate(self, row: Tensor) -> Tensor:
        done = native_near.rotate_rows(row.float(), columns=self._columns, flips=self._flips)
        if done is not None:
            return done
        value = row.new_zeros(len(row), self._columns, dtype=torch.float32)
        value[:, : row.shape[1]] = row.float() * self._flips
        strides = [1 << bit for bit in range(self._columns.bit_length() - 1)]
        far = [stride for stride in strides if stride >= _LANES and self._columns > _LANES]
        for stride in far + [stride for stride in strides if stride not in far]:
            pairs = value.view(len(row), -1, 2, stride)
            left, right = pairs.unbind(2)
            value = torch.stack([left + right, left - right], 2).view(len(row), -1)
        if far:
            value = value.view(len(row), -1, _LANES).transpose(1, 2).flatten(1)
        return value

    def _code(self, rotated: Tensor) -> Tensor:
        bits = (rotated[:, : self._bits] >= 0).long()
        words = [
            (word << torch.arange(word.shape[1], device=word.device)).sum(1)
            for word in bits.split(64, dim=1)
        ]
        return torch.stack(words)
