"""`facescale models` and `import-weights`: the backbones, and weights of other trainers."""

import sys
from pathlib import Path

from tyro.conf import Positional

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


@errors_in_one_line
def import_weights(
    backbone: Positional[str],
    source: Positional[Path],
    dest: Positional[Path],
    /,
    *,
    image_size: int | None = None,
    json: bool = False,
) -> int:
    """Turn a network's weights that arcface_torch saved into safetensors for a run file.

    The source is a `backbone.pth` or `model.pt`, or a whole `checkpoint_gpu_0.pt`. It is a pickle:
    a process with little memory and time reads it, and nothing of it is run. A run file then says
    `backbone: {name: iresnet50, weights: iresnet50.safetensors}`.

    Args:
        backbone: the network here: iresnet50 for r50, mbf, vit_b, and so on
        source: the file of arcface_torch
        dest: the safetensors file to write; must not exist yet
        image_size: side of the faces that it was trained with, if not 112
        json: print the result as JSON
    """
    from trainer.backbones import import_arcface_torch

    said = import_arcface_torch.import_weights(backbone, source, dest, image_size=image_size)
    show(said, as_json=json)
    return Exit.OK
