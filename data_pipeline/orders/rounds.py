"""Who comes next: an endless sequence of identities in which each has a fixed share.

The sequence is made of rounds. After e rounds identity i has come floor(e x_i + phase_i) times,
where x_i is its share in an average round and its keyed phase lies in [0, 1): never more than one
off the exact share, over any number of rounds. Within a round the order is a keyed permutation.
Nothing is drawn with replacement, so equal shares mean that everybody comes once a round.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64

from data_pipeline import keyed

ROUNDS_HELD = 2  # a step may span the end of one; 16 bytes an entry each
TOTALS_HELD = 1024  # a number each
FRACTION_BITS = 32


class Rounds:
    """Identities in turn; 24 bytes each beside the rounds that are held."""

    def __init__(self, share: Float64[np.ndarray, " identities"], *, seed: int) -> None:
        """Fix the sequence; an average round has as many entries as there are positive shares.

        Shares need not sum to one; those of 0 never come.
        """
        positive = int((share > 0).sum())
        if not positive or not np.isfinite(share).all() or (share < 0).any():
            raise ValueError("shares must be finite, not negative and not all 0")
        fixed = np.rint(share / share.sum() * positive * 2.0**FRACTION_BITS).astype(np.int64)
        self._whole, self._rest = fixed >> FRACTION_BITS, fixed & (2**FRACTION_BITS - 1)
        phase = keyed.hash64("phase of an identity", seed, np.arange(len(share)))
        self._phase = (phase >> np.uint64(64 - FRACTION_BITS)).astype(np.int64)
        self._mean = float(fixed.sum()) / 2.0**FRACTION_BITS
        self._seed = seed
        self._total = lru_cache(maxsize=TOTALS_HELD)(lambda e: int(self._passed(e).sum()))
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # no cache that copies share

    def at(
        self, entry: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The identities at some places of the sequence, and how often each came before."""
        identity, use = np.empty_like(entry), np.empty_like(entry)
        left = np.ones(len(entry), bool)
        while left.any():
            e = self._round_of(int(entry[left].min()))
            who, used = self._round(e)
            place = entry - self._total(e)
            here = left & (place < len(who))  # and not below 0: these begin with the least left
            identity[here], use[here] = who[place[here]], used[place[here]]
            left &= ~here
        return identity, use

    def _round_of(self, entry: int) -> int:
        """The round an entry belongs to: about entry / mean, and phases shift it by a few."""
        e = int(entry / self._mean)
        while entry < self._total(e):
            e -= 1
        while entry >= self._total(e + 1):
            e += 1
        return e

    def _passed(self, rounds: int) -> np.ndarray:
        """How often each identity has come after some rounds."""
        return rounds * self._whole + ((rounds * self._rest + self._phase) >> FRACTION_BITS)

    def _round(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """The identities of a round in order, and how often each came before; a few are kept."""
        if e not in self._held:
            made = self._make_round(e)
            if len(self._held) == ROUNDS_HELD:
                del self._held[next(iter(self._held))]  # the oldest
            self._held[e] = made
        return self._held[e]

    def _make_round(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        before = self._passed(e)
        times = self._passed(e + 1) - before
        who = np.repeat(np.arange(len(times)), times)
        use = (before - (np.cumsum(times) - times))[who] + np.arange(len(who))
        shuffled = who[keyed.permutation(len(who), "identities of a round", self._seed, e)]
        counted = np.empty_like(use)
        counted[np.argsort(shuffled, kind="stable")] = use  # as `who` ascends
        return shuffled, counted
