"""Verification sets: a packed dataset and pairs of its samples, same person or not, in folds.

The pairs lie beside the shards in `pairs.parquet` (first, second: samples; same; fold). They come
from a file in LFW's format (`pairs_file`), or are drawn by key from labelled images (`pairs_draw`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Bool, Int64
from pyarrow import parquet

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import SHARD_BYTES, Image, Packed
from data_pipeline.pack_tables import pack_with_tables
from data_pipeline.pairs_draw import Pairs, draw_pairs
from data_pipeline.pairs_file import FOLDS, NumberedImages, read_pairs
from data_pipeline.sources import Source
from data_pipeline.sources.folder import FolderSource

PAIRS = "pairs.parquet"


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """A verification set on disk; `PairSet.open(path)` makes one."""

    dataset: Dataset
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int64[np.ndarray, " pairs"]

    @classmethod
    def open(cls, path: Path | str) -> "PairSet":
        """Open a dataset that has pairs, and check them against its labels."""
        dataset = Dataset.open(path)
        file = dataset.path / PAIRS
        if PAIRS not in dataset.extras:
            raise DataError(
                f"{path} is a dataset without pairs; make a verification set with "
                "`facescale data pairs`"
            )
        try:
            table = parquet.read_table(file)
            first, second, fold = (
                table[name].to_numpy().astype(np.int64) for name in ("first", "second", "fold")
            )
            same = table["same"].to_numpy().astype(np.bool_)
        except (KeyError, OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{file} is damaged ({error}); pack the set again") from error
        ends = np.concatenate((first, second))
        if len(ends) == 0 or ends.min() < 0 or ends.max() >= dataset.num_samples:
            raise DataError(f"{file} names samples that do not exist; pack the set again")
        labels = dataset.labels()
        if not np.array_equal(labels[first] == labels[second], same):
            raise DataError(f"{file} contradicts the dataset's labels; pack the set again")
        return cls(dataset=dataset, first=first, second=second, same=same, fold=fold)


def pack_pairs(
    source: Path | str,
    pairs_file: Path | str,
    dest: Path | str,
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    show_progress: bool = False,
) -> PairSet:
    """Pack the images of a folder that a pairs file names, each once, with the pairs.

    An `alignment` brings them upright. An image that is missing or unreadable is an error: a
    verification set is fixed.
    """
    named = read_pairs(pairs_file)
    folder = FolderSource.open(source)
    images = NumberedImages(folder.images, source=Path(source))
    wanted: list[tuple[Image, Image]] = []
    for pair in named:
        try:
            wanted.append((images.find(*pair.first), images.find(*pair.second)))
        except DataError as error:
            raise DataError(f"{pairs_file}, line {pair.line}: {error}") from None
    chosen = _Chosen(source=folder, images=tuple({image for both in wanted for image in both}))

    def pairs_of(packed: Packed) -> Pairs:
        sample_of = {image: sample for sample, image in enumerate(packed.images)}
        return Pairs(
            first=np.array([sample_of[first] for first, _ in wanted], np.int64),
            second=np.array([sample_of[second] for _, second in wanted], np.int64),
            same=np.array([pair.same for pair in named], np.bool_),
            fold=np.array([pair.fold for pair in named], np.int64),
        )

    return pack_with_pairs(
        chosen,
        dest,
        pairs_of,
        alignment=alignment,
        seed=seed,
        shard_bytes=shard_bytes,
        workers=workers,
        show_progress=show_progress,
    )


def pack_drawn_pairs(
    source: Source,
    dest: Path | str,
    *,
    num_pairs: int,
    folds: int = FOLDS,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    show_progress: bool = False,
) -> PairSet:
    """Pack all images of a source, which must be readable, with pairs drawn by `draw_pairs`."""

    def pairs_of(packed: Packed) -> Pairs:
        return draw_pairs(packed.dataset.labels(), num_pairs=num_pairs, folds=folds, seed=seed)

    return pack_with_pairs(
        source,
        dest,
        pairs_of,
        seed=seed,
        shard_bytes=shard_bytes,
        workers=workers,
        show_progress=show_progress,
    )


def pack_with_pairs(
    source: Source,
    dest: Path | str,
    pairs_of: Callable[[Packed], Pairs],
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    show_progress: bool = False,
) -> PairSet:
    """Pack all images of a source, which must be readable, with pairs of the samples written."""

    def tables_of(packed: Packed) -> dict[str, pyarrow.Table]:
        pairs = pairs_of(packed)
        columns = {name: getattr(pairs, name) for name in ("first", "second", "same", "fold")}
        return {PAIRS: pyarrow.table(columns)}

    pack_with_tables(
        source,
        Path(dest),
        tables_of,
        alignment=alignment,
        seed=seed,
        shard_bytes=shard_bytes,
        workers=workers,
        show_progress=show_progress,
    )
    return PairSet.open(dest)


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """Some images of another source."""

    source: Source
    images: tuple[Image, ...]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def read(self, identity: str, image: str) -> bytes:
        return self.source.read(identity, image)

    def counts(self) -> Mapping[str, int]:
        return {}
