"""`facescale data import` and `export`: other people's forms of datasets, read and written."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.data_align import alignment_of
from cluster.errors import Exit

Kind = Literal[
    "bin", "cfp-ff", "cfp-fp", "calfw", "cplfw", "sllfw", "flagged", "ytf", "ijb", "megaface"
]


@errors_in_one_line
def import_set(
    kind: Positional[Kind],
    source: Positional[Path],
    dest: Positional[Path],
    /,
    *,
    images: Path | None = None,
    landmarks: Path | None = None,
    align: str | None = None,
    seed: int = 0,
    workers: int = 1,
    json: bool = False,
) -> int:
    """Turn a published verification set into a packed one.

    The source is, by kind: bin, insightface's file; cfp-ff and cfp-fp, the folder Protocol; calfw,
    cplfw and sllfw, the published list of pairs; flagged, a list of `flag path path` as AgeDB-30's
    is passed on; ytf, splits.txt; ijb, the folder of meta files; megaface, a folder of images and
    lists, as insightface passes it on. LFW's own pairs.txt is for `facescale data pairs`.

    Args:
        kind: what the source is
        source: a file or a folder, by kind
        dest: the set to write; must not exist yet
        images: folder that the images' paths are relative to; if not given, the one above the
            source. Not for bin and megaface, which hold their images
        landmarks: file of five points an image, to bring faces upright by; for ijb the meta file
            of points. Faces without points are cut out of the middle
        align: size of an upright face: 112 (the default), 112x96 (height x width) or 128
        seed: of the order of samples
        workers: processes that read and check images
        json: print the result as JSON
    """
    from data_pipeline.index import describe
    from data_pipeline.verification_sets.importing import import_verification_set

    dataset, counts = import_verification_set(
        kind,
        source,
        dest,
        images=images,
        alignment=alignment_of(landmarks, align, "keep"),
        seed=seed,
        workers=workers,
        show_progress=True,
    )
    show(describe(dataset) | counts, as_json=json)
    return Exit.OK


@errors_in_one_line
def export(dataset: Positional[Path], dest: Positional[Path], /, *, json: bool = False) -> int:
    """Write a dataset as insightface's RecordIO set (train.rec, train.idx, property).

    Args:
        dataset: a packed or indexed dataset whose images have one size
        dest: the folder to write; must not exist yet
        json: print the result as JSON
    """
    from data_pipeline.index import Dataset
    from data_pipeline.recordio_export import export_recordio

    counts = export_recordio(Dataset.open(dataset), dest, show_progress=True)
    show({"path": str(dest)} | counts, as_json=json)
    return Exit.OK
