"""`facescale picture`: what a network's DRConv and TVConv layers learnt."""

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit


@errors_in_one_line
def picture(
    source: Positional[Path],
    dest: Positional[Path],
    /,
    *,
    faces: Path | None = None,
    most_faces: int = 64,
    shown: int = 6,
    threads: int = 1,
    json: bool = False,
) -> int:
    """Draw the regions of a network's DRConv layers over faces, and TVConv's affinity maps.

    A row a guide or layer, as PNG, and in numbers: each region's share of the pixels, how even the
    shares are (1 is all alike, 0 a guide that chooses one region everywhere), and how far kernels
    are from their mean over positions.

    Args:
        source: a run folder, or one of its checkpoints
        dest: the PNG file to write; must not exist yet
        faces: a dataset or verification set; the picture is then readable for you alone, and shows
            no names; by default faces of people who do not exist
        most_faces: how many faces the numbers are of
        shown: how many of them the picture has
        threads: CPU threads
        json: print the numbers as JSON
    """
    from data_pipeline.index import Dataset
    from trainer.errors import RunFileError
    from trainer.evaluate.picture import write_picture
    from trainer.export.source import from_run

    if min(most_faces, shown, threads) < 1:
        raise RunFileError("--most-faces, --shown and --threads are at least 1")
    if dest.suffix.lower() != ".png":
        raise RunFileError(f"{dest} is no name for a picture; give one that ends in .png")
    result = write_picture(
        from_run(source),
        dest,
        dataset=None if faces is None else Dataset.open(faces),
        most_faces=most_faces,
        shown=min(shown, most_faces),
        threads=threads,
    )
    show(result if json else _for_a_terminal(result), as_json=json)
    return Exit.OK


def _for_a_terminal(result: dict[str, Any]) -> dict[str, Any]:
    """A line a layer."""
    layers = {}
    for name, use in result.pop("regions", {}).items():
        shares = " ".join(f"{share:.0%}" for share in use["shares"])
        layers[name] = f"{_size(use)}, evenness {use['evenness']:.2f}, shares {shares}"
    for name, found in result.pop("positions", {}).items():
        (lowest, highest), varies = found["affinity"], found["deviation"]
        layers[name] = (
            f"{_size(found)}, affinity {lowest:.3g} to {highest:.3g}, kernels differ from their"
            f" mean by {varies['mean']:.0%} of it, at most {varies['highest']:.0%}"
        )
    size = f"{result.pop('bytes') / 1e3:.0f} kB"
    return {**result, "size": size, **layers}


def _size(layer: dict[str, Any]) -> str:
    height, width = layer["map"]
    return f"{height} x {width}"
