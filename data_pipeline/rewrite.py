"""A copy of shards without some of their samples, and with other labels.

Which images are left out, and which labels nobody uses, is known only after all images are packed.
Both are rare, so they cost a copy of the tars rather than a second decoding of every source.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline.index import MEMBER, Shard
from data_pipeline.shard_writer import ShardWriter


def rewrite(
    shards: Sequence[Shard],
    folder: Path,
    dest: Path,
    *,
    left_out: Int64[np.ndarray, " left_out"],
    label_after: Int64[np.ndarray, " labels"],
    shard_bytes: int,
) -> list[Shard]:
    """Write the samples of a folder's shards but those `left_out`, which ascend, to `dest`."""
    with ShardWriter(dest, shard_bytes=shard_bytes) as writer:
        for shard in shards:
            records = np.fromfile(folder / f"{shard.name}.members", MEMBER)
            start, end = np.searchsorted(
                left_out, (shard.first_sample, shard.first_sample + shard.samples)
            )
            kept = np.delete(records, left_out[start:end] - shard.first_sample)
            with (folder / f"{shard.name}.tar").open("rb") as tar:
                for offset, size, _, label in kept.tolist():
                    tar.seek(offset)
                    writer.add(tar.read(size), label=int(label_after[label]))
    return writer.shards
