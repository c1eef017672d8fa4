"""In which order a visit goes through its parts' rows, chunk by chunk, and by which rules."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sharded_fc.partition import chunks
from sharded_fc.parts import Part
from sharded_fc.tile import Rules


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of a part: a chunk, the `number`-th of the visit.

    `place` is where they lie among all rows of the visit.
    """

    start: int
    stop: int
    place: slice
    number: int
    rules: Rules


def pieces_of(
    parts: Sequence[Part],
    which: int,
    rules: Rules,
    *,
    chunk: int,
    sub_centres: int,
    labels_everywhere: bool,
) -> Iterator[Piece]:
    """The chunks of one part, of up to `chunk` rows each.

    The rules of a chunk without a sample's class hold no labels where looking costs nothing, on a
    CPU, unless they are wanted everywhere.
    """
    before, part = parts[:which], parts[which]
    first = sum(math.ceil(len(each) / chunk) for each in before)
    offset = sum(map(len, before))
    rules = part.rules(rules)
    holding = None
    if rules.label is not None and rules.label.is_cpu and not labels_everywhere:
        row = rules.label[rules.label >= 0] * sub_centres
        holding = set((row // chunk).tolist())
    without = replace(rules, label=None)
    for number, (start, stop) in enumerate(chunks(len(part), chunk)):
        place = slice(offset + start, offset + stop)
        held = holding is None or number in holding
        yield Piece(start, stop, place, first + number, rules if held else without)
