"""The tables of a dataset that is being repaired: those that count or name samples, where needed.

`identities.parquet` is written again where it changed or its counts are others now; the list of
duplicates is numbered anew. The tables of a verification set are never changed: with a face less it
would be another test.
"""

from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Int64
from pyarrow import parquet

from data_pipeline.checking.files import compare_file, read_identities
from data_pipeline.checking.findings import Findings
from data_pipeline.duplicates_file import DUPLICATES, SCHEMA, renumbered
from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset, File, file_of


def mended_tables(
    dataset: Dataset,
    folder: Path,
    *,
    images: Int64[np.ndarray, " identities"],
    left_out: Int64[np.ndarray, " left_out"],
) -> dict[str, File]:
    """Write the tables that change into a folder; every table of the dataset, as it then is.

    Args:
        dataset: as it was
        folder: a new one
        images: samples of each label that are left
        left_out: the samples that are gone, ascending

    Raises:
        DataError: a table is damaged and nothing else holds what it said.
    """
    tables: dict[str, File] = {}
    for name, file in dataset.extras.items():
        path, new = dataset.path / name, folder / name
        damaged = not compare_file(Findings(), path, file)
        if name == IDENTITIES:
            table = _identities(path, dataset.num_identities)
            if damaged or not np.array_equal(table["images"].to_numpy(), images):
                table = table.set_column(2, "images", pyarrow.array(images))
                parquet.write_table(table, new)
        elif name == DUPLICATES:
            if damaged:
                continue  # it can be made again by packing, and no run reads it
            if len(left_out):
                parquet.write_table(_duplicates(path, left_out), new)
        elif damaged or len(left_out):
            told = "is damaged" if damaged else f"names {len(left_out)} samples that would be lost"
            raise DataError(f"{path} {told}, and the set would be another test; import it again")
        tables[name] = file_of(new) if new.exists() else file
    return tables


def _identities(path: Path, num_identities: int) -> pyarrow.Table:
    try:
        table = read_identities(path)
    except DataError as error:
        raise DataError(
            f"{path} cannot be repaired ({error}): nothing else has the names; copy it again"
        ) from error
    if not np.array_equal(table["label"].to_numpy(), np.arange(num_identities)):
        raise DataError(
            f"{path} cannot be repaired: it has other identities than the {num_identities} of the "
            "index; copy it again"
        )
    return table


def _duplicates(path: Path, left_out: np.ndarray) -> pyarrow.Table:
    """The pairs whose first sample is still there; a second one that is gone is none."""
    try:
        table = parquet.read_table(path).cast(SCHEMA)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is damaged ({error}); remove it from the index") from error
    table = table.filter(pyarrow.array(~np.isin(table["first_sample"].to_numpy(), left_out)))
    for name in ("first_sample", "second_sample"):
        column = table[name].combine_chunks()
        number = column.fill_null(-1).to_numpy()
        mask = (number < 0) | np.isin(number, left_out)
        new = pyarrow.array(renumbered(number, left_out), mask=mask, type=pyarrow.int64())
        table = table.set_column(table.schema.get_field_index(name), name, new)
    return table
