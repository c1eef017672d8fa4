"""Writing a packed dataset as insightface's `train.rec`, for trainers that read nothing else.

    train.rec         header record, images ordered by label, one record an identity
    train.idx         `number<TAB>offset` of every record
    train_images.idx  the same of the images alone: what DALI's reader needs, which fails on others
    property          `identities,height,width`

The header's labels and those of the identity records are numbers of records in float32, exact up
to 2^24. A set with more records than that is written as insightface's shuffled files are: images
numbered from 0, and neither header nor identity records.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.partial import committed_folder
from data_pipeline.recordio import framed, pack_record
from data_pipeline.shards import BadSampleError, EncodedFace, ShardReader

EXACT = 1 << 24  # float32 holds every whole number up to here
_READ_AT_ONCE = 16_384  # images held, some 150 MB of faces: read shard by shard, written by label


def export_recordio(
    dataset: Dataset, dest: Path | str, *, show_progress: bool = False
) -> dict[str, int]:
    """Write a dataset whose images have one size as a RecordIO set; the folder must be new.

    Returns the counts of images and identities. A damaged sample ends the export with `DataError`
    and leaves nothing.
    """
    if dataset.image_size is None:
        raise DataError(
            f"{dataset.path} holds images of several sizes, and readers of RecordIO sets expect "
            "one; pack it again, aligned"
        )
    label = dataset.labels()
    order = np.argsort(label, kind="stable")
    images = np.bincount(label, minlength=dataset.num_identities)
    described = 1 + len(order) + len(images) <= EXACT
    height, width = dataset.image_size
    with committed_folder(Path(dest)) as folder:
        with (
            _Writer(folder) as writer,
            tqdm(
                desc="exporting",
                total=len(order),
                unit=" images",
                file=sys.stderr,
                disable=None if show_progress else True,  # None: only on a terminal
            ) as bar,
        ):
            if described:
                writer.describe([float(1 + len(order)), float(1 + len(order) + len(images))])
            for face in _faces(dataset, order):
                writer.add(face)
                bar.update()
            if described:
                ends = 1 + np.cumsum(images)
                for end, count in zip(ends.tolist(), images.tolist(), strict=True):
                    writer.describe([float(end - count), float(end)])
        (folder / "property").write_text(f"{len(images)},{height},{width}\n")
    return {"images": len(order), "identities": len(images)}


class _Writer:
    """Appends numbered records to `train.rec` and their places to its two indexes."""

    def __init__(self, folder: Path) -> None:
        self._number = self._offset = 0
        with ExitStack() as files:
            self._rec = files.enter_context((folder / "train.rec").open("wb"))
            self._idx = files.enter_context((folder / "train.idx").open("w"))
            self._images_idx = files.enter_context((folder / "train_images.idx").open("w"))
            self._files = files.pop_all()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._files.close()

    def describe(self, labels: list[float]) -> None:
        """A record without an image: the header, or an identity's range of records."""
        self._add(pack_record(b"", labels=labels, number=self._number))

    def add(self, face: EncodedFace) -> None:
        self._images_idx.write(f"{self._number}\t{self._offset}\n")
        self._add(pack_record(face.content, labels=float(face.label), number=self._number))

    def _add(self, record: bytes) -> None:
        self._idx.write(f"{self._number}\t{self._offset}\n")
        self._offset += self._rec.write(framed(record))
        self._number += 1


def _faces(dataset: Dataset, order: Int64[np.ndarray, " samples"]) -> Iterator[EncodedFace]:
    """The samples in this order, read a stretch at a time in the order of the shards."""
    reader = ShardReader(dataset, max_open=1)
    try:
        for start in range(0, len(order), _READ_AT_ONCE):
            stretch = order[start : start + _READ_AT_ONCE]
            faces = {sample: reader.read(sample) for sample in np.sort(stretch).tolist()}
            for sample in stretch.tolist():
                yield faces.pop(sample)
    except BadSampleError as error:
        raise DataError(
            f"{reader.where(error.sample)} of {dataset.path} cannot be exported ({error.reason}); "
            "find all such samples with `facescale data check`"
        ) from error
    finally:
        reader.close()
