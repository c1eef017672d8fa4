"""From several rows a class back to one: what is kept once sub-centres have sorted out the noise.

Samples of a class that another person's images got into gather around rows of their own
(arXiv:2007.12114 trains with K rows, drops what lies far from the dominant one, and trains on with
one). Blocks in, blocks out; no more than a block and a few classes are held.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sharded_fc.storage import Block


def dominant(blocks: Iterable[Block], *, sub_centres: int) -> Iterator[Block]:
    """For each class the row that most samples were nearest to, the first of equals.

    Its optimizer rows and its `wins` go with it. The blocks may be cut and ordered in any way;
    they are what a head of one row a class loads, with `sub_centres` 1 in its state.

    Raises:
        ValueError: a block has no wins, or the blocks end within a class.
    """
    cut: dict[int, list[tuple[int, dict[str, Tensor]]]] = {}
    for first, rows in blocks:
        if "wins" not in rows:
            raise ValueError(f"the block at row {first} has no wins; save rows with head.rows()")
        begin = min(-first % sub_centres, len(rows["wins"]))
        whole = (len(rows["wins"]) - begin) // sub_centres * sub_centres
        for start, stop in ((0, begin), (begin + whole, len(rows["wins"]))):
            if start == stop:
                continue
            label = (first + start) // sub_centres
            pieces = cut.setdefault(label, [])
            pieces.append((first + start, {name: t[start:stop] for name, t in rows.items()}))
            if sum(len(piece["wins"]) for _, piece in pieces) == sub_centres:
                pieces.sort(key=lambda piece: piece[0])
                joined = {name: torch.cat([piece[name] for _, piece in pieces]) for name in rows}
                yield label, _best(joined, sub_centres)
                del cut[label]
        if whole:
            inner = {name: t[begin : begin + whole] for name, t in rows.items()}
            yield (first + begin) // sub_centres, _best(inner, sub_centres)
    if cut:
        raise ValueError(
            f"the blocks hold only part of the rows of class {min(cut)}; pass every block, and "
            f"sub_centres as trained, not {sub_centres}"
        )


def _best(rows: dict[str, Tensor], sub_centres: int) -> dict[str, Tensor]:
    best = rows["wins"].view(-1, sub_centres).argmax(1)
    place = torch.arange(len(best)) * sub_centres + best
    return {name: tensor[place] for name, tensor in rows.items()}
