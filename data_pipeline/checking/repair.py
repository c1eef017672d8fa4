"""Mends a packed dataset where it lies: damaged shards alone are written again, the index last.

New shards are written beside the old, under other names where anything changed; the rename of
`index.json` makes them the dataset's, and only then are the old ones removed. A kill leaves the old
dataset or the new one. Between the renames of tables and that of the index, which follow each other
at once, readers refuse the dataset; the same command mends that too.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline.checking.mended_shards import Mended, mended
from data_pipeline.checking.mended_tables import mended_tables
from data_pipeline.checking.report import DatasetReport
from data_pipeline.errors import DataError
from data_pipeline.index import INDEX, MEMBER, Dataset, Shard, index_text
from data_pipeline.index_file import read_index
from data_pipeline.partial import lock, sync

MAX_LOST = 0.01  # as much as packing leaves out unless asked otherwise
SCRATCH = "repair.partial"
COUNTED = "lost_in_repair"  # in `source` of the index


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair has done."""

    restored: int
    """Shards that are as they were packed, to the byte."""
    shortened: int
    """Shards that were written without some of their samples, or are gone."""
    samples_lost: int


def repair(report: DatasetReport, *, max_lost: float = MAX_LOST) -> Repaired:
    """Mend the dataset of a report, which must have been packed and lie on this machine.

    Args:
        report: of a check just made
        max_lost: the largest share of samples that may have to be given up

    Raises:
        DataError: the dataset is not ours to change, or cannot be mended; nothing is changed then.
    """
    dataset = report.dataset
    if "tars" in dataset.source or any(shard.location is not None for shard in dataset.shards):
        raise DataError(
            f"the tars of {dataset.path} were only indexed and are left as they are; say where to "
            "write sound copies of the damaged ones: --to FOLDER"
        )
    held = lock(dataset.path)
    scratch = dataset.path / SCRATCH
    try:
        if Dataset(path=dataset.path, **read_index(dataset.path)) != dataset:
            raise DataError(f"{dataset.path} has changed since it was checked; check it again")
        shutil.rmtree(scratch, ignore_errors=True)  # a killed repair's
        scratch.mkdir()
        return _repair(report, scratch, max_lost)
    except OSError as error:
        raise DataError(f"cannot repair {dataset.path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


def _repair(report: DatasetReport, scratch: Path, max_lost: float) -> Repaired:
    dataset = report.dataset
    found = {
        index: mended(dataset, index, state, scratch)
        for index, state in enumerate(report.shards)
        if state.damaged
    }
    left_out = _left_out(dataset, found)
    if len(left_out) > max_lost * dataset.num_samples:
        raise DataError(
            f"{dataset.path} would lose {len(left_out)} of {dataset.num_samples} samples, more "
            f"than the allowed share of {max_lost:g}; copy its damaged files again, or allow more"
        )
    if len(left_out) == dataset.num_samples:
        raise DataError(f"no sample of {dataset.path} can be used; copy or pack it again")
    shards = [
        found[index].shard if index in found else shard
        for index, shard in enumerate(dataset.shards)
    ]
    after = _with_shards(dataset, [shard for shard in shards if shard is not None], len(left_out))
    images = _images(after, scratch)
    extras = mended_tables(dataset, scratch, images=images, left_out=left_out)
    old = [dataset.shards[index] for index in found]
    _commit(replace(after, extras=extras), scratch, old)
    restored = sum(found[index].shard == dataset.shards[index] for index in found)
    return Repaired(restored=restored, shortened=len(found) - restored, samples_lost=len(left_out))


def _left_out(dataset: Dataset, found: dict[int, Mended]) -> Int64[np.ndarray, " left_out"]:
    """The numbers of the samples that are gone, ascending."""
    gone = [dataset.shards[index].first_sample + m.lost for index, m in sorted(found.items())]
    return np.concatenate([np.empty(0, np.int64), *gone])


def _with_shards(dataset: Dataset, shards: list[Shard], lost: int) -> Dataset:
    source = dict(dataset.source)
    if lost:
        source[COUNTED] = source.get(COUNTED, 0) + lost
    num_samples = sum(shard.samples for shard in shards)
    return replace(dataset, shards=tuple(shards), num_samples=num_samples, source=source)


def _images(dataset: Dataset, scratch: Path) -> Int64[np.ndarray, " identities"]:
    """Samples of each label, in the records as they will be."""
    images = np.zeros(dataset.num_identities, np.int64)
    for shard in dataset.shards:
        new = scratch / f"{shard.name}.members"
        records = np.fromfile(new if new.exists() else dataset.path / new.name, MEMBER)
        np.add.at(images, records["label"], 1)
    return images


def _commit(dataset: Dataset, scratch: Path, old: list[Shard]) -> None:
    """Put the new files in place, the index last, and remove what it names no more."""
    index = index_text(dataset)
    if index != (dataset.path / INDEX).read_text(encoding="utf-8"):
        (scratch / INDEX).write_text(index, encoding="utf-8")
    last = (*dataset.extras, INDEX)
    files = sorted(scratch.iterdir(), key=lambda file: (file.name in last, file.name == INDEX))
    for file in files:
        sync(file)
    for file in files:
        if file.name == INDEX:
            sync(dataset.path)
        file.rename(dataset.path / file.name)
    sync(dataset.path)
    for name in {name for shard in old for name in shard.files()} - dataset.files().keys():
        (dataset.path / name).unlink(missing_ok=True)
