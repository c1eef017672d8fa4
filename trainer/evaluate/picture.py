"""What a trained network's DRConv and TVConv layers learnt, as a picture and in numbers."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.index import Dataset
from data_pipeline.synthetic import draw
from trainer.backbones.oblong import middle
from trainer.errors import RunError
from trainer.export import images
from trainer.export.source import Source
from trainer.layers.drconv import DRConv2d
from trainer.layers.drconv.picture import region_picture
from trainer.layers.drconv.usage import Usage
from trainer.layers.page import stack
from trainer.layers.tvconv import TVConv2d
from trainer.layers.tvconv.picture import affinity_picture, deviation
from trainer.new_file import AS_USUAL, OWNER_ALONE, expect_new, written_beside

FIRST_MADE_UP = 2_000_000  # people whom no one trains on


def write_picture(
    source: Source,
    dest: Path,
    *,
    dataset: Dataset | None = None,
    most_faces: int = 64,
    shown: int = 6,
    threads: int = 1,
) -> dict[str, Any]:
    """Write `dest`, a PNG, and say what each layer does with `most_faces` faces.

    They come from all over `dataset`, and then the file is its owner's alone; or are made up. The
    first of some that are far apart are `shown`.

    Raises:
        RunError: the network has no such layer, or the file is there already or cannot be written.
        DataError: a face cannot be read.
    """
    expect_new(dest)
    torch.set_num_threads(threads)
    network = source.network
    kinds = {type(layer) for layer in network.modules()} & {DRConv2d, TVConv2d}
    if not kinds:
        raise RunError(
            f"this {source.model} has no DRConv or TVConv layer to show; "
            "`backbone.replace` in a run file puts them in"
        )
    if dataset is None:
        faces = made_up(most_faces, source.image_size)
    else:
        faces = images.faces(dataset, most_faces, source.image_size)
    pages, said = [], {}
    if DRConv2d in kinds:
        page, usages = region_picture(network, _apart(faces, shown), shown=shown)
        pages.append(page)
        said["regions"] = {name: _use(usage) for name, usage in usages.items()}
    if TVConv2d in kinds:
        pages.append(affinity_picture(network, faces))
        said["positions"] = {
            name: _variation(layer)
            for name, layer in network.named_modules()
            if isinstance(layer, TVConv2d)
        }
    stream = io.BytesIO()
    stack(pages).save(stream, "PNG", optimize=True)
    mode = AS_USUAL if dataset is None else OWNER_ALONE
    with written_beside(dest, stream.getvalue(), mode=mode):
        pass
    known = {"file": str(dest), "bytes": len(stream.getvalue()), "model": source.model}
    counted = {"faces": len(faces), "of": "a dataset" if dataset else "made-up people"}
    return {**known, **source.facts, **counted, **said}


def made_up(count: int, image_size: tuple[int, int]) -> Float[Tensor, "count 3 height width"]:
    """Faces of `facescale data synth`, from -1 to 1."""
    people = range(FIRST_MADE_UP, FIRST_MADE_UP + count)
    drawn = np.stack([draw(person, 0, size=max(image_size), seed=0) for person in people])
    faces = torch.from_numpy(drawn).permute(0, 3, 1, 2).div(127.5).sub(1)
    return middle(faces, image_size)


def _apart(faces: Tensor, shown: int) -> Tensor:
    """All faces, with `shown` of them from all over the others to begin with."""
    first = np.unique(np.linspace(0, len(faces) - 1, shown).astype(np.int64))
    others = np.setdiff1d(np.arange(len(faces)), first)
    return faces[torch.from_numpy(np.concatenate([first, others]))]


def _use(usage: Usage) -> dict[str, Any]:
    assert usage.last is not None
    return {
        "map": list(usage.last.shape[1:]),
        "shares": usage.share().tolist(),
        "evenness": usage.entropy(),
    }


def _variation(layer: TVConv2d) -> dict[str, Any]:
    affinity, varies = layer.weight_block.affinity, deviation(layer)
    return {
        "map": list(layer.map_size),
        "channels": layer.channels,
        "affinity": [affinity.min().item(), affinity.max().item()],
        "deviation": {"mean": varies.mean().item(), "highest": varies.max().item()},
    }
