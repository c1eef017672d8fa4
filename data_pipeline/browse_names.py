"""The source's names of identities, looked up and searched in `identities.parquet` piece by piece.

Row i of that file is label i. Never all names are held: a lookup reads the pieces (row groups) that
the labels lie in, a search one after the other.
"""

import numpy as np
import pyarrow
from jaxtyping import Int64
from pyarrow import compute, parquet

from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset


class Names:
    """The names of a dataset's identities."""

    def __init__(self, dataset: Dataset) -> None:
        """Open the file; one that is missing or does not fit the dataset is refused."""
        self._path = dataset.path / IDENTITIES
        if IDENTITIES not in dataset.extras:
            raise DataError(f"{dataset.path} has no {IDENTITIES}, so no names; do without them")
        try:
            self._file = parquet.ParquetFile(self._path)
            kind = self._file.schema_arrow.field("name").type
        except (KeyError, OSError, pyarrow.ArrowException) as error:
            raise self._damaged(error) from error
        if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise self._damaged("its names are no text")
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._start = np.cumsum([0, *sizes])
        if self._start[-1] != dataset.num_identities:
            raise self._damaged(f"{self._start[-1]} rows for {dataset.num_identities} identities")

    def of(self, labels: Int64[np.ndarray, " some"]) -> list[str]:
        """The name of each of some labels, in their order."""
        group = np.searchsorted(self._start, labels, side="right") - 1
        names = [""] * len(labels)
        for number in np.unique(group).tolist():
            places = np.flatnonzero(group == number)
            rows = labels[places] - self._start[number]
            found = self._group(number).take(pyarrow.array(rows)).to_pylist()
            for place, name in zip(places.tolist(), found, strict=True):
                names[place] = name or ""
        return names

    def search(self, part: str, *, limit: int) -> Int64[np.ndarray, " found"]:
        """The first `limit` labels in whose name `part` occurs, in any case of letters."""
        found = [np.empty(0, np.int64)]
        missing = limit
        for number in range(len(self._start) - 1):
            hit = compute.match_substring(  # pyright: ignore[reportAttributeAccessIssue]
                self._group(number), part, ignore_case=True
            )
            rows = np.flatnonzero(hit.fill_null(fill_value=False).to_numpy(zero_copy_only=False))[
                :missing
            ]
            found.append(rows + self._start[number])
            missing -= len(rows)
            if not missing:
                break
        return np.concatenate(found)

    def _group(self, number: int) -> pyarrow.Array:
        try:
            column = self._file.read_row_group(number, columns=["name"])["name"]
        except (OSError, pyarrow.ArrowException) as error:
            raise self._damaged(error) from error
        return pyarrow.concat_arrays(column.chunks)

    def _damaged(self, reason: object) -> DataError:
        return DataError(f"{self._path} is damaged ({reason}); pack the dataset again")
