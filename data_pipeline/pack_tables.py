"""Packing a set whose images other tables refer to: pairs, templates, lists of probes.

Such a set is fixed, so every image must be readable. The tables lie beside the shards as Parquet
files that `index.json` names with their sha256.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow
from pyarrow import parquet

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset, file_of
from data_pipeline.jpeg import MAX_PIXELS
from data_pipeline.pack import SHARD_BYTES, Packed, write_dataset, write_index
from data_pipeline.partial import committed_folder
from data_pipeline.sources import Source


def pack_with_tables(
    source: Source,
    dest: Path,
    tables_of: Callable[[Packed], Mapping[str, pyarrow.Table]],
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    show_progress: bool = False,
) -> None:
    """Write a dataset with tables, given by file name, that may refer to its samples.

    An alignment must keep images without landmarks: every image of the source is a sample.
    """
    if alignment is not None and alignment.without_landmarks != "keep":
        raise DataError("a verification set keeps images without landmarks; align it that way")
    with committed_folder(dest) as partial:
        packed = write_dataset(
            source,
            partial,
            seed=seed,
            shard_bytes=shard_bytes,
            max_pixels=MAX_PIXELS,
            max_unreadable=0.0,
            alignment=alignment,
            workers=workers,
            show_progress=show_progress,
        )
        extras = dict(packed.dataset.extras)
        for name, table in tables_of(packed).items():
            parquet.write_table(table, partial / name)
            extras[name] = file_of(partial / name)
        write_index(replace(packed.dataset, extras=extras))


def read_table(dataset: Dataset, name: str, schema: pyarrow.Schema) -> pyarrow.Table:
    """One of a dataset's tables, with exactly these columns; `DataError` where it has others."""
    file = dataset.path / name
    if name not in dataset.extras:
        raise DataError(f"{dataset.path} has no {name}; it is another kind of dataset")
    try:
        return parquet.read_table(file, columns=schema.names).select(schema.names).cast(schema)
    except (KeyError, OSError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{file} is damaged ({reason}); pack the set again") from None
