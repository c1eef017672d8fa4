"""A shuffle of [0, size) that is never written down: each number's place follows from a key.

The first n values are n distinct numbers, drawn alike from all, for O(n); the inverse tells any
number's place, so that who holds few numbers asks about those alone. No generator, no sort, the
same numbers on every rank and device.
"""

import math
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from sharded_fc import native_draw
from sharded_fc.counter import extend, signed

ROUNDS = 8  # tests/sharded_fc/sampling/test_permutation.py sees pairs drawn unevenly below 6
_LOW_32 = (1 << 32) - 1


class Permutation:
    """A Feistel network on [0, rows) x [0, columns), a rectangle that just holds [0, size).

    Rounds add, modulo its side, a keyed random function of the other coordinate (Black and Rogaway,
    "Ciphers with arbitrary finite domains", CT-RSA 2002, method 3): a hash of 32 bits, a dozen
    operations on integers. What leaves [0, size) goes through the network again until it is back
    (cycle walking): one number in sqrt(size) at most.
    """

    def __init__(self, size: int, key: int | Int[Tensor, ""], *, device: torch.device) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} numbers; there must be at least one")
        self.size = size
        self.device = device
        self._columns = math.isqrt(size - 1) + 1
        self._rows = -(-size // self._columns)
        self._key = key

    @cached_property
    def _keys(self) -> Int[Tensor, "rounds halves"]:
        start = signed(self._key) if isinstance(self._key, int) else self._key
        key = extend(start, torch.arange(ROUNDS, dtype=torch.int64, device=self.device))
        return torch.stack((key & _LOW_32, (key >> 32) & _LOW_32), dim=1)

    def forward(self, place: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The numbers at places in [0, size), both int64."""
        return self._walk(place, range(ROUNDS), sign=1)

    def first_within(
        self,
        count: int,
        first: int,
        last: int,
        *,
        without: Int[Tensor, " known"],
        others: bool = False,
    ) -> Int[Tensor, " found"]:
        """Those of the first `count` numbers that lie in [first, last), ascending.

        But for those in `without`, which are distinct and ascending; with `others` they do not
        count.
        """
        if self.device.type == "cpu":
            numbers = native_draw.FirstNumbers(self.network)
            found = numbers.within(first, last, count=count, others=others, known=without)
            if found is not None:
                return found
        if others:
            count = self.end_of_others(count, without)
        number = self.forward(torch.arange(count, device=self.device))
        number = number[(number >= first) & (number < last)].sort().values
        return without_known(number, without)

    def inverse(self, number: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The places of numbers in [0, size), both int64."""
        if self.device.type == "cpu":
            found = native_draw.places(self.network, number)
            if found is not None:
                return found
        return self._walk(number, range(ROUNDS - 1, -1, -1), sign=-1)

    def end_of_others(self, wanted: int, known: Int[Tensor, " known"]) -> int:
        """The place behind the first `wanted` numbers that are not among the distinct `known`."""
        if self.device.type == "cpu":
            found = native_draw.end_of_others(self.network, wanted, known=known)
            if found is not None:
                return found
        # Before the k-th of the known there are place - k others.
        place = self.inverse(known).sort().values
        before = place - torch.arange(len(place), device=place.device)
        return wanted + int((before < wanted).sum())

    @cached_property
    def network(self) -> native_draw.Network:
        """As compiled code knows it; for a key on the host."""
        return native_draw.network(
            int(self._key), rounds=ROUNDS, rows=self._rows, columns=self._columns, size=self.size
        )

    def _walk(self, point: Tensor, rounds: range, *, sign: int) -> Tensor:
        point = self._through(point, rounds, sign)
        while len(outside := (point >= self.size).nonzero().squeeze(1)):
            point[outside] = self._through(point[outside], rounds, sign)
        return point

    def _through(self, point: Tensor, rounds: range, sign: int) -> Tensor:
        row = torch.div(point, self._columns, rounding_mode="floor")
        column = point - row * self._columns
        for number in rounds:
            key = self._keys[number]
            if number % 2 == 0:
                row = _added(row, _change(column, key, self._rows), sign, self._rows)
            else:
                column = _added(column, _change(row, key, self._columns), sign, self._columns)
        return row * self._columns + column


def _change(value: Tensor, key: Tensor, side: int) -> Tensor:
    """What a round adds to one coordinate, in [0, side), by the other; `key` is two of 32 bits.

    The hash is a bijection of 32 bits with two multiplications, in int64 with the low half kept.
    Sides stay below 2^31 for any size below 2^60.
    """
    low, high = key
    hashed = (value + low) & _LOW_32
    hashed = ((hashed ^ (hashed >> 16)) * 0x7FEB352D + high) & _LOW_32
    hashed = ((hashed ^ (hashed >> 15)) * 0x846CA68B) & _LOW_32
    return (hashed * side) >> 32


def _added(value: Tensor, change: Tensor, sign: int, side: int) -> Tensor:
    """The sum, or difference, modulo `side`, in place; both lie in [0, side)."""
    value = value.add_(change, alpha=sign)
    outside = value >= side if sign > 0 else value < 0
    return value.sub_(outside * (sign * side))


def without_known(number: Int[Tensor, " n"], known: Int[Tensor, " known"]) -> Int[Tensor, " kept"]:
    """Numbers that are not in `known`, both ascending."""
    if not len(known) or not len(number):
        return number
    place = torch.searchsorted(number, known).clamp_(max=len(number) - 1)
    keep = torch.ones_like(number, dtype=torch.bool)
    keep[place[number[place] == known]] = False
    return number[keep]
