"""In which order a visit goes through its parts' rows, chunk by chunk, and by which rules."""

from collections.abc import Sequence
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
    rules: Rules,
    *,
    chunk: int,
    sub_centres: int,
    labels_everywhere: bool,
) -> list[list[Piece]]:
    """Each part's chunks, of up to `chunk` rows each.

    The rules of a chunk without a sample's class hold no labels where looking costs nothing, on a
    CPU, unless they are wanted everywhere.
    """
    found: list[list[Piece]] = []
    offset = 0
    for part in parts:
        before = sum(map(len, found))
        of_part = part.rules(rules)
        holding = None
        if of_part.label is not None and of_part.label.is_cpu and not labels_everywhere:
            row = of_part.label[of_part.label >= 0] * sub_centres
            holding = set((row // chunk).tolist())
        without = replace(of_part, label=None)
        found.append(
            [
                Piece(
                    start,
                    stop,
                    slice(offset + start, offset + stop),
                    before + number,
                    of_part if holding is None or number in holding else without,
                )
                for number, (start, stop) in enumerate(chunks(len(part), chunk))
            ]
        )
        offset += len(part)
    return found
