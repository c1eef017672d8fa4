"""`facescale models`: the backbones, as a table or as JSON; needs no torch."""

import sys

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit

COLUMNS = ("name", "parameters", "multiply-adds", "image", "numbers", "paper", "what it is")
RIGHT = {"parameters", "multiply-adds", "image", "numbers"}


@errors_in_one_line
def models(*, json: bool = False) -> int:
    """List the backbones: parameters, multiply-adds of an image, size, embedding, paper.

    Args:
        json: print all that is known of each as JSON
    """
    from dataclasses import asdict

    from trainer.backbones.table import BACKBONES

    if json:
        show({row.name: asdict(row) for row in BACKBONES.values()}, as_json=True)
        return Exit.OK
    rows = [
        (
            row.name,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.multiply_adds / 1e6:,.0f} M",
            f"{row.image_size[0]} x {row.image_size[1]}",
            str(row.embedding_dim),
            row.paper,
            row.note,
        )
        for row in BACKBONES.values()
    ]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for cells in (COLUMNS, *rows):
        aligned = (
            cell.rjust(width) if name in RIGHT else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
        )
        sys.stdout.write("  ".join(aligned).rstrip() + "\n")
    return Exit.OK
