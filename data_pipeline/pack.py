"""Turning a source of images into a dataset of shuffled shards, completely or not at all.

The same source and seed give the same bytes on any machine and in any order of listing: names are
sorted, and both the labels and the order of samples follow keyed permutations. (Images that must
be encoded again, and `identities.parquet`, depend on the versions of Pillow and pyarrow too.)
Names from the source are kept as text and never become paths.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet
from tqdm import tqdm

from data_pipeline import keyed
from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, INDEX, MEMBER, Dataset, Shard, file_of, index_text
from data_pipeline.jpeg import MAX_PIXELS, Jpeg, Preparation
from data_pipeline.partial import committed_folder
from data_pipeline.processes import map_in_order
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.sources import Source

SHARD_BYTES = 64 << 20  # some 8,000 faces of 112 x 112: a lane shuffles a few shards at once
NAMED = 20  # unreadable images that are named; all are counted
CHUNK = 32  # images a worker gets at once

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
    workers: int = 1,
    show_progress: bool = False,
) -> Dataset:
    """Write the images of `source` as the dataset `dest`, which must not exist yet.

    Unreadable images are left out, counted and named, up to the share `max_unreadable` of all.
    """
    dest = Path(dest)
    with committed_folder(dest) as partial:
        packed = write_dataset(
            source,
            partial,
            seed=seed,
            shard_bytes=shard_bytes,
            max_pixels=max_pixels,
            max_unreadable=max_unreadable,
            workers=workers,
            show_progress=show_progress,
        )
        write_index(packed.dataset)
    return Dataset.open(dest)


def write_dataset(
    source: Source,
    folder: Path,
    *,
    seed: int,
    shard_bytes: int,
    max_pixels: int,
    max_unreadable: float,
    workers: int,
    show_progress: bool,
) -> Packed:
    """Write all files of a dataset but `index.json` into an empty folder."""
    listing = sorted(source)
    if not listing:
        raise DataError("the source holds no images")
    shuffled = [listing[i] for i in keyed.permutation(len(listing), "pack order", seed)]
    names = sorted({identity for identity, _ in listing})
    names = [names[i] for i in keyed.permutation(len(names), "labels", seed)]

    jpegs = _jpegs(shuffled, Preparation(source=source, max_pixels=max_pixels), workers=workers)
    readable = _Readable(
        zip(shuffled, jpegs, strict=True), names, total=len(shuffled), max_unreadable=max_unreadable
    )
    with (
        tqdm(
            desc="packing",
            total=len(shuffled),
            unit=" images",
            file=sys.stderr,
            disable=None if show_progress else True,  # None: only on a terminal
        ) as bar,
        ShardWriter(folder, shard_bytes=shard_bytes) as writer,
    ):
        for jpeg, label in readable:
            writer.add(jpeg.content, label=label)
            bar.update()
    shards = writer.shards
    images = np.bincount(readable.labels, minlength=len(names))
    if images.min() == 0:  # a label without samples, its images all being unreadable
        shards = _relabelled(shards, folder, images > 0, shard_bytes=shard_bytes)
        names = [name for name, count in zip(names, images, strict=True) if count]
        images = images[images > 0]

    table = {"label": np.arange(len(names)), "name": names, "images": images}
    parquet.write_table(pyarrow.table(table), folder / IDENTITIES)
    dataset = Dataset(
        path=folder,
        num_samples=len(readable.images),
        num_identities=len(names),
        image_size=readable.sizes.pop() if len(readable.sizes) == 1 else None,
        shards=tuple(shards),
        extras={IDENTITIES: file_of(folder / IDENTITIES)},
        source={
            "listed_images": len(listing),
            "unreadable_images": len(readable.unreadable),
            "encoded_again": readable.encoded_again,
            "single_image_identities": int((images == 1).sum()),
            **source.counts(),
        },
        unreadable=tuple(sorted(readable.unreadable)[:NAMED]),
    )
    return Packed(dataset=dataset, images=readable.images)


def write_index(dataset: Dataset) -> None:
    """Write the last file of a dataset."""
    (dataset.path / INDEX).write_text(index_text(dataset), encoding="utf-8")


class _Readable:
    """Iterates over the good images of a stream with their labels, and counts the others."""

    def __init__(
        self,
        stream: Iterator[tuple[Image, Jpeg | str]],
        names: Sequence[str],
        *,
        total: int,
        max_unreadable: float,
    ) -> None:
        self.images: list[Image] = []
        self.labels: list[int] = []
        self.sizes: set[tuple[int, int]] = set()
        self.unreadable: list[str] = []
        self.encoded_again = 0
        self._stream = stream
        self._label_of = {name: label for label, name in enumerate(names)}
        self._total = total
        self._max_unreadable = max_unreadable

    def __iter__(self) -> Iterator[tuple[Jpeg, int]]:
        for image, jpeg in self._stream:
            if isinstance(jpeg, str):
                self.unreadable.append(f"{image[0]}/{image[1]}: {jpeg}")
                continue
            self.images.append(image)
            self.labels.append(self._label_of[image[0]])
            self.sizes.add((jpeg.height, jpeg.width))
            self.encoded_again += jpeg.encoded_again
            yield jpeg, self.labels[-1]
        self._check_share()

    def _check_share(self) -> None:
        count, total = len(self.unreadable), self._total
        if count == total or count > self._max_unreadable * total:
            named = "; ".join(sorted(self.unreadable)[:NAMED])
            raise DataError(
                f"{count} of {total} images cannot be read, more than the allowed share of "
                f"{self._max_unreadable:g}; remove them or allow more. They are: {named}"
                + (f"; and {count - NAMED} more" if count > NAMED else "")
            )


def _jpegs(images: list[Image], preparation: Preparation, *, workers: int) -> Iterator[Jpeg | str]:
    chunks = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
    for chunk in map_in_order(preparation.prepare_all, chunks, workers=workers):
        yield from chunk


def _relabelled(
    shards: Sequence[Shard], folder: Path, used: np.ndarray, *, shard_bytes: int
) -> list[Shard]:
    """The same shards with the labels that nobody uses closed up.

    Rare, so it costs a copy of the tars here rather than a second decoding of every source.
    """
    label_after = np.cumsum(used) - 1
    beside = folder / "relabelled"
    beside.mkdir()
    with ShardWriter(beside, shard_bytes=shard_bytes) as writer:
        for shard in shards:
            records = np.fromfile(folder / f"{shard.name}.members", MEMBER)
            with (folder / f"{shard.name}.tar").open("rb") as tar:
                for offset, size, _, label in records.tolist():
                    tar.seek(offset)
                    writer.add(tar.read(size), label=int(label_after[label]))
            for name in shard.files():
                (folder / name).unlink()
    for shard in writer.shards:
        for name in shard.files():
            (beside / name).rename(folder / name)
    beside.rmdir()
    return writer.shards
