"""Turning a source of images into a dataset of shuffled shards, completely or not at all.

The same source and seed give the same bytes on any machine, in any order of listing, with any
number of workers and after any number of kills: names are sorted, and both the labels and the order
of samples follow keyed permutations. (Images that must be encoded again and the Parquet files
depend on the versions of Pillow and pyarrow too.) Memory does not grow with the images: what is
listed and what is compared lies on disk. Names from the source are kept as text and never become
paths.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL

from data_pipeline.alignment import Alignment
from data_pipeline.fingerprint import Examination
from data_pipeline.finishing import Repeated, Traces, finish
from data_pipeline.index import INDEX, Dataset, index_text
from data_pipeline.journal import Journal
from data_pipeline.jpeg import MAX_PIXELS, Preparation
from data_pipeline.listing import Listing, list_source
from data_pipeline.packing import Packing
from data_pipeline.partial import Unfinished, resumable_folder
from data_pipeline.sources import Source, for_workers

SHARD_BYTES = 64 << 20  # some 8,000 faces of 112 x 112: a lane shuffles a few shards at once

Image = tuple[str, str]
"""(identity, image): its names in the source."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A dataset just written, and which image of the source each of its samples is."""

    dataset: Dataset
    images: Sequence[Image]


def pack(
    source: Source,
    dest: Path | str,
    *,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_unreadable: float = 0.01,
    alignment: Alignment | None = None,
    repeated: Repeated = "keep",
    look_alikes: bool = False,
    restart: bool = False,
    workers: int = 1,
    show_progress: bool = False,
) -> Dataset:
    """Write the images of `source` as the dataset `dest`, which must not exist yet.

    Unreadable images are left out, counted and named, up to the share `max_unreadable` of all. An
    `alignment` brings the others upright, in crops of one size.
    Images with the same bytes, and with `look_alikes` those that look the same, are counted and
    listed in `duplicates.parquet`; `repeated="drop"` leaves out all but the first of an identity's
    images with the same bytes.

    A pack that was stopped in any way goes on after its last whole shard if its source lists the
    same names and the options that its bytes depend on are the same; else it is refused, or with
    `restart` done again from the beginning. Images must not have changed meanwhile.
    """
    dest = Path(dest)
    with resumable_folder(dest, restart=restart) as unfinished:
        written = _write(
            source,
            unfinished,
            seed=seed,
            shard_bytes=shard_bytes,
            max_pixels=max_pixels,
            max_unreadable=max_unreadable,
            alignment=alignment,
            repeated=repeated,
            look_alikes=look_alikes,
            workers=workers,
            show_progress=show_progress,
        )
        write_index(written.dataset)
    return Dataset.open(dest)


def write_dataset(
    source: Source,
    folder: Path,
    *,
    seed: int,
    shard_bytes: int,
    max_pixels: int,
    max_unreadable: float,
    alignment: Alignment | None = None,
    workers: int,
    show_progress: bool,
) -> Packed:
    """Write all files of a small dataset but `index.json` into an empty folder."""
    scratch = folder / "scratch"
    unfinished = Unfinished(dataset=scratch / "dataset", scratch=scratch)
    unfinished.dataset.mkdir(parents=True)
    written = _write(
        source,
        unfinished,
        seed=seed,
        shard_bytes=shard_bytes,
        max_pixels=max_pixels,
        max_unreadable=max_unreadable,
        alignment=alignment,
        repeated="keep",
        look_alikes=False,
        workers=workers,
        show_progress=show_progress,
    )
    positions = written.traces.positions(np.arange(written.dataset.num_samples))
    images = [(listed.identity, listed.image) for listed in written.listing.images_at(positions)]
    for path in unfinished.dataset.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(scratch)
    return Packed(dataset=replace(written.dataset, path=folder), images=images)


def write_index(dataset: Dataset) -> None:
    """Write the last file of a dataset."""
    (dataset.path / INDEX).write_text(index_text(dataset), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Written:
    dataset: Dataset
    listing: Listing
    traces: Traces


def _write(
    source: Source,
    unfinished: Unfinished,
    *,
    seed: int,
    shard_bytes: int,
    max_pixels: int,
    max_unreadable: float,
    alignment: Alignment | None,
    repeated: Repeated,
    look_alikes: bool,
    workers: int,
    show_progress: bool,
) -> _Written:
    journal = Journal(unfinished.dataset, unfinished.scratch)
    unfinished.worth_keeping = journal.has_shards()
    if alignment is not None:
        source = alignment.listed(source)
    listing = list_source(
        source, unfinished.scratch / "listing", seed=seed, show_progress=show_progress
    )
    journal.resume(
        {
            "source": listing.digest,
            "seed": seed,
            "shard_bytes": shard_bytes,
            "max_pixels": max_pixels,
            "look_alikes": look_alikes,
            "Pillow": PIL.__version__,
            **({} if alignment is None else alignment.options()),
        },
        threads=workers,
        show_progress=show_progress,
    )
    packing = Packing(listing, journal)
    try:
        packing.write_shards(
            unfinished.dataset,
            Examination(
                preparation=Preparation(
                    source=for_workers(source), max_pixels=max_pixels, alignment=alignment
                ),
                looks=look_alikes,
            ),
            shard_bytes=shard_bytes,
            max_unreadable=max_unreadable,
            workers=workers,
            show_progress=show_progress,
        )
    finally:
        unfinished.worth_keeping = journal.has_shards()
    dataset = finish(
        listing,
        journal,
        packing.tally,
        unfinished,
        source=source.counts(),
        repeated=repeated,
        looks=look_alikes,
        shard_bytes=shard_bytes,
    )
    return _Written(dataset=dataset, listing=listing, traces=Traces(journal))
