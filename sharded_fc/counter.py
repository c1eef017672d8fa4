"""Random numbers without a generator: a hash of who asks (seed, row, step, column) is the number.

Integers and shifts only, so a number has the same bits on every device, in any order and in chunks
of any size, and nothing has to be saved to go on. The hash is splitmix64 (Steele, Lea, Flood 2014,
"Fast splittable pseudorandom number generators"): a key is hashed on with each further value.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # splitmix64's increment
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_LOW_HALVES = 0x0000FFFF0000FFFF
HASHES = 3  # times four 16-bit pieces: twelve uniforms, whose sum has variance 1

# The second value of a key says what it is for. Rows have keys (seed, row), and none is negative.
ROUNDING = -1
SAMPLES = -2


def signed(value: int) -> int:
    """The int64 with the low 64 bits of `value`."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


def mix(key: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """splitmix64's finaliser, in place; int64 wraps like uint64 but shifts in the sign."""
    key ^= (key >> 30) & ((1 << 34) - 1)
    key *= signed(_MULTIPLIERS[0])
    key ^= (key >> 27) & ((1 << 37) - 1)
    key *= signed(_MULTIPLIERS[1])
    key ^= (key >> 31) & ((1 << 33) - 1)
    return key


def mix_int(key: int) -> int:
    """`mix` of one key in [0, 2^64)."""
    key = (key ^ (key >> 30)) * _MULTIPLIERS[0] % (1 << 64)
    key = (key ^ (key >> 27)) * _MULTIPLIERS[1] % (1 << 64)
    return key ^ (key >> 31)


def key_of(first: int, *values: int) -> int:
    """One key, in [0, 2^64), for a sequence of integers whose low 64 bits count."""
    key = mix_int((first + GOLDEN) % (1 << 64))
    for value in values:
        key = extend_int(key, value)
    return key


def extend_int(key: int, value: int) -> int:
    """`extend` of one key, in [0, 2^64)."""
    return mix_int((key + value * GOLDEN) % (1 << 64))


def extend(key: int | Tensor, value: Int[Tensor, "*shape"]) -> Tensor:
    """Keys hashed on with values: `key_of(*known, value)` where `key` is `key_of(*known)`.

    A key that is a tensor broadcasts against `value`.
    """
    known = key if isinstance(key, Tensor) else signed(key)
    return mix(value * signed(GOLDEN) + known)


def keys(seed: int, step: Int[Tensor, ""], position: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A key for each sample of a step, on the device of `step` and `position`."""
    return extend(extend(key_of(seed, SAMPLES), step), position)


def centred_sum(key: Tensor, offsets: Iterable[int | Tensor]) -> Tensor:
    """Twelve 16-bit uniforms a key, added up, less their mean; exact integers below 2^19.

    `offsets` are three multiples of `GOLDEN`, each a number or a tensor that broadcasts against
    `key` into the shape of the sum: the counters at which the key is hashed.
    """
    halves: int | Tensor = 0
    for offset in offsets:
        bits = mix(key + offset)
        halves = (bits & _LOW_HALVES) + halves
        halves += (bits >> 16) & _LOW_HALVES
    assert isinstance(halves, Tensor)
    total = (halves & 0xFFFFFFFF) + (halves >> 32)
    return total.sub_(4 * HASHES * 65535 // 2)


def normals(key: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A number close to normal(0, 1) for each key, float64, within six deviations.

    The sum of twelve 16-bit uniforms (Irwin-Hall).
    """
    offsets = [signed(counter * GOLDEN) for counter in range(1, HASHES + 1)]
    return centred_sum(key, offsets).to(torch.float64).div_(65536)
