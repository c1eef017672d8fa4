"""The last steps of a pack, once all shards are there: duplicates, labels, identities, counts.

They read only the shards' traces, unless samples are left out or labels closed up, which copies
the shards. A kill here costs these steps again and nothing else.
"""

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow
from jaxtyping import Int64
from pyarrow import parquet

from data_pipeline.duplicates import RECORD, find_duplicates
from data_pipeline.duplicates_file import DUPLICATES, write_duplicates
from data_pipeline.index import IDENTITIES, Dataset, Shard, file_of
from data_pipeline.journal import TRACE, Journal, Tally
from data_pipeline.listing import Listing
from data_pipeline.partial import Unfinished
from data_pipeline.rewrite import rewrite

Repeated = Literal["keep", "drop"]
"""What becomes of an image whose bytes an earlier one of the same identity has."""

NAMES = 1 << 16  # of identities, written at once
SCHEMA = pyarrow.schema(
    [("label", pyarrow.int64()), ("name", pyarrow.string()), ("images", pyarrow.int64())]
)


class Traces:
    """What is known of every sample that was packed, read shard by shard."""

    def __init__(self, journal: Journal) -> None:
        """Of all shards of a journal."""
        self.shards = journal.shards
        self.num_samples = sum(shard.samples for shard in self.shards)
        self._paths = [journal.trace_of(shard) for shard in self.shards]

    def records(self) -> Iterator[np.ndarray]:
        """What comparing samples needs, in blocks."""
        for shard, path in zip(self.shards, self._paths, strict=True):
            trace = np.fromfile(path, TRACE)
            records = np.empty(len(trace), RECORD)
            records["sample"] = shard.first_sample + np.arange(len(trace))
            for field in ("label", "digest", "look"):
                records[field] = trace[field]
            yield records

    def positions(self, samples: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """The places of some samples, which ascend, in the order of images."""
        found = [np.empty(0, np.int64)]
        for shard, path in zip(self.shards, self._paths, strict=True):
            inside = samples[slice(*_range(samples, shard))]
            if len(inside):
                found.append(np.fromfile(path, TRACE)["position"][inside - shard.first_sample])
        return np.concatenate(found)

    def images_per_label(
        self, num_labels: int, left_out: Int64[np.ndarray, " left_out"]
    ) -> Int64[np.ndarray, " labels"]:
        """How many samples each label has without those left out, which ascend."""
        images = np.zeros(num_labels, np.int64)
        for shard, path in zip(self.shards, self._paths, strict=True):
            gone = left_out[slice(*_range(left_out, shard))] - shard.first_sample
            np.add.at(images, np.delete(np.fromfile(path, TRACE)["label"], gone), 1)
        return images


def finish(
    listing: Listing,
    journal: Journal,
    tally: Tally,
    unfinished: Unfinished,
    *,
    source: Mapping[str, int],
    repeated: Repeated,
    looks: bool,
    shard_bytes: int,
) -> Dataset:
    """All files of the dataset but `index.json`; `unfinished.dataset` says in which folder.

    `source` is what the source counted.
    """
    traces = Traces(journal)
    comparing = unfinished.scratch / "comparing"
    shutil.rmtree(comparing, ignore_errors=True)
    duplicates = find_duplicates(traces.records(), comparing, count=traces.num_samples, looks=looks)
    left_out = duplicates.repeated if repeated == "drop" else duplicates.repeated[:0]
    images = traces.images_per_label(listing.num_identities, left_out)
    used = images > 0
    shards = traces.shards
    if len(left_out) or not used.all():
        shards = _rewritten(
            shards, unfinished, left_out, label_after=np.cumsum(used) - 1, shard_bytes=shard_bytes
        )
    folder = unfinished.dataset
    extras = [IDENTITIES]
    _write_identities(listing, images, folder / IDENTITIES)
    if sum(duplicates.counts.values()):
        extras.append(DUPLICATES)
        write_duplicates(
            duplicates,
            folder / DUPLICATES,
            listing=listing,
            positions_of=traces.positions,
            left_out=left_out,
        )
    return Dataset(
        path=folder,
        num_samples=traces.num_samples - len(left_out),
        num_identities=int(used.sum()),
        image_size=tally.sizes[0] if len(tally.sizes) == 1 else None,
        shards=tuple(shards),
        extras={name: file_of(folder / name) for name in extras},
        source={
            "listed_images": listing.num_images,
            "unreadable_images": tally.unreadable,
            **({"images_without_face": tally.faceless} if tally.faceless else {}),
            "encoded_again": tally.encoded_again,
            "single_image_identities": int((images == 1).sum()),
            **duplicates.counts,
            "duplicates_left_out": len(left_out),
            **source,
        },
        unreadable=tally.named,
    )


def _rewritten(
    shards: list[Shard],
    unfinished: Unfinished,
    left_out: np.ndarray,
    *,
    label_after: np.ndarray,
    shard_bytes: int,
) -> list[Shard]:
    """The shards in another folder, so that a kill meanwhile leaves those of the journal."""
    beside = unfinished.scratch / "rewritten"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    shards = rewrite(
        shards,
        unfinished.dataset,
        beside,
        left_out=left_out,
        label_after=label_after,
        shard_bytes=shard_bytes,
    )
    unfinished.dataset = beside
    return shards


def _write_identities(listing: Listing, images: np.ndarray, path: Path) -> None:
    label = 0
    rows = ((name, count) for name, count in zip(listing.names(), images, strict=True) if count)
    with parquet.ParquetWriter(path, SCHEMA) as writer:
        while piece := list(islice(rows, NAMES)):
            columns = {
                "label": np.arange(label, label + len(piece)),
                "name": [name for name, _ in piece],
                "images": np.array([count for _, count in piece]),
            }
            writer.write_table(pyarrow.table(columns, schema=SCHEMA))
            label += len(piece)


def _range(samples: np.ndarray, shard: Shard) -> tuple[int, int]:
    """Where the samples of a shard begin and end among some that ascend."""
    start, end = np.searchsorted(
        samples, (shard.first_sample, shard.first_sample + shard.samples)
    ).tolist()
    return start, end
