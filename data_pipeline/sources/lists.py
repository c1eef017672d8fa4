"""A list of images with their identities: CSV, TSV or Parquet, paths relative to a root.

Text is UTF-8, separated by commas or (where the first line has any) tabs, quoted by `"` as
spreadsheets do. Where the first line names a column `path` and one `label`, those are taken;
otherwise every line is a path and a label, and nothing else. A label is any text, as it stands.
Paths that leave the root end the listing; links that do make an image unreadable.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
from pyarrow import compute, parquet
from pyarrow import csv as arrow_csv

from data_pipeline.errors import DataError
from data_pipeline.sources.inside import LEADS_OUT, read_inside
from data_pipeline.sources.mapped import mapped_table

TEXT_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".lst"))
SUFFIXES = TEXT_SUFFIXES | {".parquet"}

_COLUMNS = ("path", "label")
_SCHEMA = pyarrow.schema([(name, pyarrow.large_string()) for name in _COLUMNS])
_ROWS = 1 << 16  # at once
_HEAD_BYTES = 1 << 16  # of a text file, in which its first line must end
_CONTROL = r"[\x00-\x1f\x7f]"


@dataclass(frozen=True, kw_only=True)
class ListSource:
    """Images under `root` that a list names; `ListSource.open(path)` makes one."""

    root: Path
    listing: pyarrow.Table
    """path and label of every image, text; on disk."""

    @classmethod
    def open(cls, path: Path | str, *, root: Path | str | None = None) -> "ListSource":
        """Read a list; its paths are relative to `root`, or to the folder that it lies in.

        Raises:
            DataError: the list or the root cannot be read, lacks a column, is empty or not text,
                or names a path that leads out of the root.
        """
        path = Path(path)
        folder = path.parent if root is None else Path(root)
        if not folder.is_dir():
            raise DataError(f"the root {folder} of the list {path} is not a folder")
        try:
            batches = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
            return cls.of(batches, root=folder, name=str(path))
        except pyarrow.ArrowException as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{path} is not a list of paths and labels: {reason}") from None
        except OSError as error:
            raise DataError(f"cannot read the list {path}: {error.strerror or error}") from error

    @classmethod
    def of(cls, batches: Iterable[pyarrow.RecordBatch], *, root: Path, name: str) -> "ListSource":
        """A source of given rows, path and label as text; `name` is for messages."""
        listing = mapped_table((_checked(batch, name) for batch in batches), _SCHEMA)
        if not len(listing):
            raise DataError(f"{name} names no images")
        return cls(root=root.resolve(), listing=listing)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(label, path) of every line."""
        for batch in self.listing.to_batches(max_chunksize=4096):
            path, label = (column.to_pylist() for column in batch.columns)
            yield from zip(label, path, strict=True)

    def read(self, identity: str, image: str) -> bytes:
        """The bytes of one image file."""
        return read_inside(self.root, image)

    def counts(self) -> Mapping[str, int]:
        """A list passes nothing over."""
        return {}

    def without_listing(self) -> "ListSource":
        """The same source for `read` alone, as worker processes need it."""
        return replace(self, listing=_SCHEMA.empty_table())


def _checked(batch: pyarrow.RecordBatch, name: str) -> pyarrow.RecordBatch:
    columns = [compute.cast(column, pyarrow.large_string()) for column in batch.columns]
    batch = pyarrow.record_batch(columns, _SCHEMA)
    for column in _COLUMNS:
        if batch[column].null_count or _match(batch[column], "^$").true_count:
            raise DataError(f"{name}: an entry has no {column}")
        if _match(batch[column], _CONTROL).true_count:
            raise DataError(f"{name}: a {column} holds a control character; is a quote not closed?")
    outside = batch["path"].filter(_match(batch["path"], LEADS_OUT))
    if len(outside):
        raise DataError(
            f"{name}: {outside[0].as_py()!r} leads out of the root; paths are relative to it and "
            "hold no `..`"
        )
    return batch


def _match(column: pyarrow.Array, pattern: str) -> pyarrow.BooleanArray:
    options = compute.MatchSubstringOptions(pattern)
    return compute.call_function("match_substring_regex", [column], options)


def _parquet(path: Path) -> Iterator[pyarrow.RecordBatch]:
    with parquet.ParquetFile(path) as file:
        missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; it needs path and label")
        for batch in file.iter_batches(_ROWS, columns=list(_COLUMNS)):
            yield batch.select(_COLUMNS)


def _text(path: Path) -> Iterator[pyarrow.RecordBatch]:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    first = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].decode(errors="replace")
    delimiter = "\t" if "\t" in first else ","
    cells = next(csv.reader([first], delimiter=delimiter), [])
    names = [cell.strip().lower() for cell in cells]
    titled = all(names.count(name) == 1 for name in _COLUMNS)
    if not titled and len(cells) != len(_COLUMNS):
        raise DataError(
            f"{path}: its first line has {len(cells)} columns; give two, a path and a label, or "
            "name two of them path and label"
        )
    return _lines(path, names if titled else _COLUMNS, delimiter=delimiter, skip=int(titled))


def _lines(
    path: Path, names: Sequence[str], *, delimiter: str, skip: int
) -> Iterator[pyarrow.RecordBatch]:
    unique = [name if name in _COLUMNS else str(i) for i, name in enumerate(names)]
    yield from arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(column_names=unique, skip_rows=skip),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(_COLUMNS),
            column_types=dict.fromkeys(_COLUMNS, pyarrow.string()),
            strings_can_be_null=False,
        ),
    )
