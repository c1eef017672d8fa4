"""Weights that insightface's arcface_torch saved (`backbone.pth`, `model.pt`), by their names.

The file is a pickle: a limited process turns it into plain numbers, which are then given our
names and kept as safetensors. Every weight of the network must be there and have its shape.
"""

import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from sharded_fc.limited import ask
from trainer import backbones
from trainer.backbones import table
from trainer.backbones.table import Family
from trainer.backbones.weights import compare, metadata
from trainer.errors import RunError

_READER = Path(__file__).with_name("state_reader.py")

LAST: dict[Family, str] = {
    "iresnet": "embedding.3.running_mean",
    "mbf": "embedding.4.running_mean",
    "vit": "embedding.3.running_mean",
}
"""A tensor of as many numbers as an embedding has, by our name."""

RULES: dict[Family, tuple[tuple[str, str], ...]] = {
    "iresnet": (
        (r"conv1\.", "stem.0."),
        (r"bn1\.", "stem.1."),
        (r"prelu\.", "stem.2."),
        (r"layer(\d)\.(\d+)\.bn1\.", r"stage\1.\2.body.0."),
        (r"layer(\d)\.(\d+)\.conv1\.", r"stage\1.\2.body.1.0."),
        (r"layer(\d)\.(\d+)\.bn2\.", r"stage\1.\2.body.1.1."),
        (r"layer(\d)\.(\d+)\.prelu\.", r"stage\1.\2.body.1.2."),
        (r"layer(\d)\.(\d+)\.conv2\.", r"stage\1.\2.body.2.0."),
        (r"layer(\d)\.(\d+)\.bn3\.", r"stage\1.\2.body.2.1."),
        (r"layer(\d)\.(\d+)\.downsample\.", r"stage\1.\2.shortcut."),
        (r"bn2\.", "embedding.0."),
        (r"fc\.", "embedding.2."),
        (r"features\.", "embedding.3."),
    ),
    "mbf": (
        (r"layers\.0\.layers\.", "stem."),
        (r"layers\.1\.layers\.(\d+)\.layers\.(\d)\.layers\.", r"stage1.\1.body.\2."),
        (r"layers\.1\.layers\.", "stage1."),
        *(
            rule
            for stage in (2, 3, 4)
            for rule in (
                (rf"layers\.{2 * stage - 2}\.layers\.(\d)\.layers\.", rf"stage{stage}.0.body.\1."),
                (
                    rf"layers\.{2 * stage - 1}\.layers\.(\d+)\.layers\.(\d)\.layers\.",
                    rf"stage{stage}.+\1.body.\2.",
                ),
            )
        ),
        (r"conv_sep\.layers\.", "embedding.0."),
        (r"features\.layers\.0\.layers\.", "embedding.1.body."),
        (r"features\.layers\.2\.", "embedding.3."),
        (r"features\.layers\.3\.", "embedding.4."),
    ),
    "vit": (
        (r"patch_embed\.proj\.", "patches."),
        (r"pos_embed$", "position"),
        (r"blocks\.(\d+)\.norm(\d)\.", r"blocks.\1.norm\2."),
        (r"blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.attention.qkv."),
        (r"blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attention.projection."),
        (r"blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.0."),
        (r"blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.2."),
        (r"norm\.", "norm."),
        (r"feature\.", "embedding."),
        (r"mask_token$", "mask_token"),
    ),
}
"""Patterns at the start of their names, and ours; a number after + counts one further."""

UNUSED: dict[Family, str] = {"vit": "mask_token"}
"""What a file of the family has even where the network, with no tokens left out, has not."""


class _Place(NamedTuple):
    """Where a tensor lies among the values that the reader wrote."""

    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


def import_weights(
    name: str, source: Path, dest: Path, *, image_size: int | tuple[int, int] | None = None
) -> dict[str, Any]:
    """Write `source`'s weights for the backbone called `name` to `dest`, and say what was written.

    The embedding's width is the file's. `image_size` is that of the faces it was trained with, if
    not the table's.

    Raises:
        RunError: `dest` exists, the backbone is none of arcface_torch's, or the file is not its.
    """
    row = table.row(name)
    if row.arcface_torch is None:
        known = ", ".join(r.name for r in table.BACKBONES.values() if r.arcface_torch)
        raise RunError(f"{name} is no network of arcface_torch; choose one of {known}")
    if dest.exists():
        raise RunError(f"{dest} exists; name a file that does not")
    if not source.is_file():
        raise RunError(f"{source} is no file")
    shape = table.image_shape(row.image_size if image_size is None else image_size)
    with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
        answer = ask(_READER, [source], Path(scratch))
        if "error" in answer:
            raise RunError(f"{source} cannot be read: {answer['error']}")
        tensors = [(theirs, tuple(shape)) for theirs, shape in answer["tensors"]]
        found = _renamed(tensors, row.arcface_torch)
        last = found.get(LAST[row.arcface_torch])
        embedding_dim = row.embedding_dim if last is None else last.shape[0]
        with torch.device("meta"):
            network = backbones.build(name, embedding_dim=embedding_dim, image_size=shape)
        wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        unused = UNUSED.get(row.arcface_torch)
        if unused is not None and unused not in wanted:
            found.pop(unused, None)
        compare({key: place.shape for key, place in found.items()}, wanted, source=source)
        size = sum(math.prod(shape) for _, shape in tensors)
        values = torch.from_file(str(Path(scratch) / "values"), size=size, dtype=torch.float32)
        ours = {
            key: values[place.start : place.stop].view(place.shape).clone()
            for key, place in found.items()
        }
    about = metadata(
        name=name, embedding_dim=embedding_dim, image_size=shape, source="arcface_torch"
    )
    save_file(ours, dest, metadata=about)
    return {"weights": str(dest), "backbone": name, "tensors": len(ours), **about}


def _renamed(tensors: Sequence[tuple[str, tuple[int, ...]]], family: Family) -> dict[str, _Place]:
    """Our names, and where each tensor lies; a name that no rule knows stays as it is."""
    found, start = {}, 0
    for theirs, shape in tensors:
        place = _Place(start, shape)
        found[_our_name(theirs.removeprefix("module."), family)] = place
        start = place.stop
    return found


def _our_name(theirs: str, family: Family) -> str:
    for pattern, ours in RULES[family]:
        renamed, count = re.subn(rf"^{pattern}", ours, theirs)
        if count:
            return re.sub(r"\+(\d+)", lambda found: str(int(found[1]) + 1), renamed)
    return theirs
