"""insightface's training sets as a source: `train.rec` with its `train.idx`, read without mxnet.

The index is text, `number<TAB>offset` a line. Record 0 may be a header whose two labels are the
numbers of the first identity record and of the one after the last: those say which images each
identity has, and hold no image themselves. A shuffled file has neither. Every other record is an
image, and its first label is its identity.

An image is named `<number>@<offset>`: its number in the index, its place in the file.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv

from data_pipeline.errors import DataError
from data_pipeline.image_header import MAX_IMAGE_BYTES
from data_pipeline.recordio import heads_at, read_record, unpack_record
from data_pipeline.sources.mapped import mapped_table

_BLOCK_BYTES = 1 << 18  # of the index, at once: some 15,000 records
_MAX_LABEL = 1 << 31  # far above what float32 holds exactly, far below what int64 does

_LISTING = pyarrow.schema([(name, pyarrow.int64()) for name in ("number", "offset", "label")])


@dataclass(frozen=True, kw_only=True)
class RecordIOSource:
    """The images of a RecordIO file; `RecordIOSource.open(path)` makes one."""

    rec: Path
    listing: pyarrow.Table
    """number, offset and label (int64) of every image, in the order of offsets; on disk."""
    identity_records: int

    @classmethod
    def open(cls, path: Path | str) -> "RecordIOSource":
        """List the images of a `.rec` file, or of the `train.rec` in a folder, from its headers.

        Raises:
            DataError: a file is missing, the index does not fit the file, no record is an image,
                or a label is no whole number from 0.
        """
        rec = Path(path) / "train.rec" if Path(path).is_dir() else Path(path)
        idx = rec.with_suffix(".idx")
        for file in (rec, idx):
            if not file.is_file():
                raise DataError(f"{file} does not exist; a RecordIO set is a .rec and its .idx")
        if not rec.stat().st_size:
            raise DataError(f"{rec} is empty; copy it again")
        try:
            lister = _Lister(rec)
            listing = mapped_table(map(lister.images, _index(idx)), _LISTING)
        except OSError as error:
            raise DataError(f"cannot read {rec}: {error.strerror or error}") from error
        if not len(listing):
            raise DataError(f"{rec} holds no images")
        return cls(rec=rec, listing=listing, identity_records=lister.identity_records)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(label, `<number>@<offset>`) of every image."""
        for batch in self.listing.to_batches(max_chunksize=4096):
            for number, offset, label in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                yield str(label), f"{number}@{offset}"

    def read(self, identity: str, image: str) -> bytes:
        """The encoded image of one record."""
        offset = int(image.partition("@")[2])
        with self.rec.open("rb", buffering=0) as file:
            record = read_record(file.fileno(), offset, max_bytes=MAX_IMAGE_BYTES)
        content = unpack_record(record).content
        if not content:
            raise DataError("a record without an image")
        return content

    def counts(self) -> Mapping[str, int]:
        """Records that describe identities."""
        return {"identity_records": self.identity_records}

    def without_listing(self) -> "RecordIOSource":
        """The same source for `read` alone, as worker processes need it."""
        return replace(self, listing=_LISTING.empty_table())


class _Lister:
    """Tells image records from the others, in the order of the index, and counts those."""

    def __init__(self, rec: Path) -> None:
        self.identity_records = 0
        self._rec = rec
        with rec.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._content = np.frombuffer(self._mapped, np.uint8)
        self._end = -1  # offset of the last record listed
        self._first_identity: float = np.inf  # as long as no header names one

    def images(self, index: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
        """The image records among those of a stretch of the index: number, offset, label."""
        number, offset = (column.to_numpy() for column in index.columns)
        if len(number) and (offset[0] <= self._end or (offset[1:] <= offset[:-1]).any()):
            raise DataError(
                f"the index of {self._rec} lists records out of order or twice; sort its lines by "
                "offset (sort -n -u -k 2)"
            )
        self._end = offset[-1] if len(offset) else self._end
        heads = heads_at(self._content, offset)
        self._mapped.madvise(mmap.MADV_DONTNEED)  # or every page that was looked at stays
        label, has_content = heads.label.astype(np.float64), heads.has_content.copy()
        for row in np.flatnonzero(~heads.valid):  # several parts, or not a record
            label[row], has_content[row] = self._slowly(int(number[row]), int(offset[row]))
        is_header = (number == 0) & heads.valid & ~has_content & (heads.labels > 0)
        if is_header.any():
            self._first_identity = _before_rounding(label[is_header][0])
        is_image = ~is_header & (has_content | (number < self._first_identity))
        self.identity_records += int((~is_header & ~is_image).sum())
        sound = (label >= 0) & (label < _MAX_LABEL) & (label == np.floor(label))
        wrong = np.flatnonzero(is_image & ~sound)
        if len(wrong):
            raise DataError(
                f"record {number[wrong[0]]} of {self._rec} has the label {label[wrong[0]]}; labels "
                f"are whole numbers from 0 to {_MAX_LABEL - 1}"
            )
        columns = (number, offset, label)
        return pyarrow.record_batch([c[is_image].astype(np.int64) for c in columns], _LISTING)

    def _slowly(self, number: int, offset: int) -> tuple[float, bool]:
        try:
            with self._rec.open("rb", buffering=0) as file:
                record = read_record(file.fileno(), offset, max_bytes=MAX_IMAGE_BYTES)
            labels, content = unpack_record(record)
        except (DataError, OSError) as error:
            raise DataError(
                f"record {number} of {self._rec}: {error}; copy the .rec and the .idx again"
            ) from None
        return labels[0], bool(content)


def _before_rounding(number: float) -> float:
    """The least whole number that float32 rounds to this one."""
    return number - np.spacing(np.float32(number)) / 2 if number > 1 << 24 else number


def _index(idx: Path) -> Iterator[pyarrow.RecordBatch]:
    names = ["number", "offset"]
    try:
        yield from csv.open_csv(
            idx,
            read_options=csv.ReadOptions(column_names=names, block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.int64()), null_values=[]
            ),
        )
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{idx} is no index of a RecordIO file: {reason}") from None
    except OSError as error:
        raise DataError(f"cannot read {idx}: {error}") from error
