"""`facescale data ...`: datasets from folders or made up, and what is in them."""

from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.data_align import alignment_of
from cluster.errors import Exit


@errors_in_one_line
def pack(
    source: Positional[Path],
    dest: Positional[Path],
    /,
    *,
    seed: int = 0,
    shard_mib: int = 64,
    max_unreadable: float = 0.01,
    landmarks: Path | None = None,
    align: str | None = None,
    without_landmarks: Literal["keep", "drop"] = "drop",
    repeated: Literal["keep", "drop"] = "keep",
    look_alikes: bool = False,
    restart: bool = False,
    workers: int = 1,
    json: bool = False,
) -> int:
    """Pack images into a dataset: a folder of identities, a RecordIO set or a list.

    A pack that was stopped goes on where it was when the command is repeated.

    Args:
        source: folder of `<identity>/<image>`, a `train.rec` or its folder, or a CSV, TSV or
            Parquet list of paths and labels
        dest: the dataset to write; must not exist yet
        seed: of the order of samples and labels
        shard_mib: size at which a shard is full, in MiB
        max_unreadable: share of images that may be unreadable; they are left out and counted
        landmarks: file of five points an image, to bring faces upright by
        align: size of an upright face: 112 (the default), 112x96 (height x width) or 128
        without_landmarks: whether images without a face's points are left out, or kept in the
            same size
        repeated: whether an identity keeps images whose bytes it has already
        look_alikes: list images that look the same, too, in the dataset's duplicates.parquet
        restart: give up what a stopped pack of the same name has done
        workers: processes that read and check images
        json: print the result as JSON
    """
    from data_pipeline.index import describe
    from data_pipeline.pack import pack as write
    from data_pipeline.sources.opening import open_source

    alignment = alignment_of(landmarks, align, without_landmarks)
    dataset = write(
        open_source(source),
        dest,
        seed=seed,
        shard_bytes=shard_mib << 20,
        max_unreadable=max_unreadable,
        alignment=alignment,
        repeated=repeated,
        look_alikes=look_alikes,
        restart=restart,
        workers=workers,
        show_progress=True,
    )
    show(describe(dataset), as_json=json)
    return Exit.OK


@errors_in_one_line
def info(dataset: Positional[Path], /, *, verify: bool = False, json: bool = False) -> int:
    """Describe a dataset: samples, identities, images an identity, shards.

    Args:
        dataset: a folder that `pack`, `synth` or `pairs` wrote
        verify: read every shard and compare its checksum
        json: print the result as JSON
    """
    from data_pipeline.index import Dataset, describe

    opened = Dataset.open(dataset)
    if verify:
        opened.verify()
    result: dict[str, Any] = describe(opened)
    show(result | ({"verified": True} if verify else {}), as_json=json)
    return Exit.OK


@errors_in_one_line
def pairs(
    source: Positional[Path],
    pair_list: Positional[Path],
    dest: Positional[Path],
    /,
    *,
    landmarks: Path | None = None,
    align: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Pack a folder of identities and an LFW pairs file into a verification set.

    Args:
        source: folder with one folder of images for each identity
        pair_list: text file in the format of LFW's pairs.txt
        dest: the verification set to write; must not exist yet
        landmarks: file of five points an image, to bring faces upright by; faces without points
            are cut out of the middle
        align: size of an upright face: 112 (the default), 112x96 (height x width) or 128
        seed: of the order of samples
        json: print the result as JSON
    """
    from data_pipeline.index import describe
    from data_pipeline.pairs import pack_pairs

    alignment = alignment_of(landmarks, align, "keep")
    written = pack_pairs(
        source, pair_list, dest, alignment=alignment, seed=seed, show_progress=True
    )
    show(describe(written.dataset) | {"pairs": len(written.same)}, as_json=json)
    return Exit.OK


@errors_in_one_line
def synth(
    dest: Positional[Path],
    /,
    *,
    identities: int,
    images: int,
    size: int = 112,
    seed: int = 0,
    first_identity: int = 0,
    pairs: int = 0,
    workers: int = 1,
    json: bool = False,
) -> int:
    """Draw made-up people and pack their pictures, as a training or a verification set.

    Args:
        dest: the dataset to write; must not exist yet
        identities: people to draw
        images: pictures of each
        size: side of a picture, in pixels
        seed: of everything that is drawn
        first_identity: number of the first person; sets of other numbers are other people
        pairs: pairs to draw for a verification set in ten folds; 0 makes a training set
        workers: processes that draw
        json: print the result as JSON
    """
    from data_pipeline.index import describe
    from data_pipeline.pack import pack as write
    from data_pipeline.pairs import pack_drawn_pairs
    from data_pipeline.synthetic import SyntheticSource

    source = SyntheticSource(
        identities=identities, images=images, size=size, seed=seed, first_identity=first_identity
    )
    if pairs:
        written = pack_drawn_pairs(
            source, dest, num_pairs=pairs, seed=seed, workers=workers, show_progress=True
        )
        show(describe(written.dataset) | {"pairs": len(written.same)}, as_json=json)
        return Exit.OK
    show(
        describe(write(source, dest, seed=seed, workers=workers, show_progress=True)), as_json=json
    )
    return Exit.OK
