"""Random numbers that are looked up by key instead of drawn in turn.

A number depends on its keys alone, e.g. (purpose, seed, epoch, sample), so it is the same on every
rank, after every resume and at any place in a batch. The arithmetic is our own (splitmix64's
finaliser), so it does not change with numpy's versions. Nothing here is cryptographic.
"""

import hashlib

import numpy as np
from jaxtyping import Float64, Int64, Integer, UInt64

Key = int | str | Integer[np.ndarray, "..."]
"""Integers of any size and sign count modulo 2^64; a string names the purpose of a number."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment, 2^64 over the golden ratio
_FIRST = np.uint64(0xBF58476D1CE4E5B9)  # its two multipliers (Vigna, splitmix64.c, "Mix13")
_SECOND = np.uint64(0x94D049BB133111EB)


def hash64(*keys: Key) -> UInt64[np.ndarray, "..."]:
    """One well-mixed 64-bit number for each combination of the broadcast keys.

    Order matters: `hash64(1, 2)` and `hash64(2, 1)` are unrelated.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        for key in keys:
            state = _mix((state ^ _as_uint64(key)) + _GOLDEN)
    return np.asarray(state)


def uniform(*keys: Key) -> Float64[np.ndarray, "..."]:
    """Numbers in [0, 1), each a multiple of 2^-53."""
    return np.asarray((hash64(*keys) >> np.uint64(11)) * 2.0**-53)


def permutation(n: int, *keys: Key) -> Int64[np.ndarray, " n"]:
    """The numbers 0..n-1 in the order of their hashes; equal hashes keep their order."""
    return np.argsort(hash64(*keys, np.arange(n)), kind="stable").astype(np.int64, copy=False)


def purpose(name: str) -> int:
    """The number that a string stands for as a key: for tables of many purposes."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _as_uint64(key: Key) -> np.ndarray:
    if isinstance(key, str):
        key = purpose(key)
    if isinstance(key, np.ndarray):
        return key.astype(np.uint64)
    return np.asarray(int(key) & 0xFFFFFFFFFFFFFFFF, np.uint64)


def _mix(z: np.ndarray | np.uint64) -> np.ndarray | np.uint64:  # numpy makes 0-d a scalar
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
