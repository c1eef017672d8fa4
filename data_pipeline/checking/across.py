"""What no tar shows alone: shards of unequal size, keys that several tars have."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from data_pipeline.checking.findings import Findings

MOST_UNEQUAL = 2.0  # the largest shard over the smallest but the last
MIB = 1 << 20


def compare_sizes(findings: Findings, where: str, sizes: Sequence[int]) -> None:
    """Note tars of very unequal sizes, in bytes; the last may be short."""
    full = sizes[:-1]
    if full and max(sizes) > MOST_UNEQUAL * min(full):
        detail = f"{min(full) / MIB:.3g} to {max(sizes) / MIB:.3g} MiB"
        findings.add("unequal_shards", where, detail=detail)


def compare_keys(
    findings: Findings, places: Sequence[str], keys: Sequence[UInt64[np.ndarray, " _"]]
) -> None:
    """Note digests of keys that an earlier tar has too; each tar's own differ."""
    tar = np.repeat(np.arange(len(keys)), [len(of_one) for of_one in keys])
    digests = np.concatenate([*keys, np.empty(0, np.uint64)])
    order = np.argsort(digests, kind="stable")
    digests, tar = digests[order], tar[order]
    starts = np.append(True, digests[1:] != digests[:-1])[: len(digests)]
    first = tar[np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(tar) else tar
    pairs, counts = np.unique(np.stack((first, tar), axis=1)[~starts], axis=0, return_counts=True)
    for (one, other), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        where = f"{places[one]} and {places[other]}"
        findings.add("duplicate_key_across", where, detail=f"{count} keys", count=count)
