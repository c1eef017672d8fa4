"""`duplicates.parquet`: the pairs of a dataset's images that are the same, by name.

Columns: kind ("bytes" or "look"), distance (bits in which the looks differ), same_identity,
first_sample, second_sample (none if it was left out), and identity and image of both in the source.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
from jaxtyping import Int64
from pyarrow import parquet

from data_pipeline.duplicates import Duplicates
from data_pipeline.listing import Listing

DUPLICATES = "duplicates.parquet"
PAIRS = 1 << 15  # in memory at a time, with their names
SCHEMA = pyarrow.schema(
    [
        ("kind", pyarrow.string()),
        ("distance", pyarrow.uint8()),
        ("same_identity", pyarrow.bool_()),
        ("first_sample", pyarrow.int64()),
        ("second_sample", pyarrow.int64()),
        *(
            (f"{which}_{what}", pyarrow.string())
            for which in ("first", "second")
            for what in ("identity", "image")
        ),
    ]
)


def write_duplicates(
    duplicates: Duplicates,
    path: Path,
    *,
    listing: Listing,
    positions_of: Callable[[Int64[np.ndarray, " some"]], Int64[np.ndarray, " some"]],
    left_out: Int64[np.ndarray, " left_out"],
) -> None:
    """Write all pairs, with the names at the positions of their samples.

    Samples are numbered as they are once those `left_out`, which ascend, are gone.
    """
    with parquet.ParquetWriter(path, SCHEMA) as writer:
        for pairs in duplicates.pairs(PAIRS):
            samples = np.unique(np.concatenate((pairs["first"], pairs["second"])))
            images = list(listing.images_at(positions_of(samples)))
            gone = np.isin(pairs["second"], left_out)
            columns = {
                "kind": np.where(pairs["look"], "look", "bytes"),
                "distance": pairs["distance"],
                "same_identity": pairs["same_label"],
                "first_sample": renumbered(pairs["first"], left_out),
                "second_sample": pyarrow.array(
                    renumbered(pairs["second"], left_out), mask=gone, type=pyarrow.int64()
                ),
            }
            for which in ("first", "second"):
                named = [images[i] for i in np.searchsorted(samples, pairs[which]).tolist()]
                columns[f"{which}_identity"] = [image.identity for image in named]
                columns[f"{which}_image"] = [image.image for image in named]
            writer.write_table(pyarrow.table(columns, schema=SCHEMA))


def renumbered(
    sample: Int64[np.ndarray, " some"], left_out: Int64[np.ndarray, " left_out"]
) -> Int64[np.ndarray, " some"]:
    """The numbers of samples once those `left_out`, which ascend, are gone."""
    return sample - np.searchsorted(left_out, sample)
