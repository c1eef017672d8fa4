"""Some of a dataset's identities, read where they lie: nothing is copied.

A subset is a dataset like any other: its samples are numbered without gaps, its labels are 0, 1,
... in the order they had, and shards without a chosen identity do not exist in it.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset, File


@dataclass(frozen=True, kw_only=True, eq=False)
class Subset(Dataset):
    """What `subset` makes."""

    whole: Dataset
    label_of: Int64[np.ndarray, " identities"]
    """The label here of each label of the whole, -1 for those left out."""
    shard_of: tuple[int, ...]
    """The whole's number of each shard."""

    def members(self, shard_index: int) -> np.ndarray:
        """The records of a shard's chosen samples, labels as they are here."""
        records, label = _chosen(self.whole, self.shard_of[shard_index], self.label_of)
        records = records[label >= 0]
        records["label"] = label[label >= 0]
        return records

    def tar_of(self, shard_index: int) -> Path | Address:
        """Where a shard's tar lies."""
        return self.whole.tar_of(self.shard_of[shard_index])

    def files(self) -> dict[str, File]:
        """Those of the whole."""
        return self.whole.files()

    def local_files(self) -> dict[Path, File]:
        """Those of the whole."""
        return self.whole.local_files()

    def identity_names(self) -> list[str]:
        """The source's name of each label."""
        names = self.whole.identity_names()
        return [names[label] for label in np.flatnonzero(self.label_of >= 0).tolist()]


def subset(dataset: Dataset, labels: Int64[np.ndarray, " chosen"]) -> Subset:
    """The identities with these labels; reads the records of every shard once."""
    label_of = np.full(dataset.num_identities, -1, np.int64)
    label_of[labels] = 0
    chosen = np.flatnonzero(label_of == 0)
    if not len(chosen):
        raise DataError(f"nothing of {dataset.path} is chosen; choose some of its identities")
    label_of[chosen] = np.arange(len(chosen))
    shards, shard_of, first_sample = [], [], 0
    for i, shard in enumerate(dataset.shards):
        samples = int((_chosen(dataset, i, label_of)[1] >= 0).sum())
        if samples:
            shards.append(replace(shard, samples=samples, first_sample=first_sample))
            shard_of.append(i)
            first_sample += samples
    if not shards:
        raise DataError(f"none of the chosen identities of {dataset.path} has an image")
    return Subset(
        path=dataset.path,
        num_samples=first_sample,
        num_identities=len(chosen),
        image_size=dataset.image_size,
        shards=tuple(shards),
        extras=dataset.extras,
        source=dataset.source,
        unreadable=dataset.unreadable,
        whole=dataset,
        label_of=label_of,
        shard_of=tuple(shard_of),
    )


def choose(
    dataset: Dataset,
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    min_images: int = 1,
    max_images: int | None = None,
    labels: range | None = None,
) -> Int64[np.ndarray, " chosen"]:
    """The labels of the identities that satisfy all of what is said.

    `only` and `without` are names in the source; what is to stay must exist, what is to go may not.
    """
    chosen = np.zeros(dataset.num_identities, bool)
    span = range(dataset.num_identities) if labels is None else labels
    if span.step != 1 or span.start < 0 or span.stop > dataset.num_identities:
        raise DataError(
            f"{dataset.path} has labels 0 to {dataset.num_identities - 1}; {span.start} to "
            f"{span.stop - 1} are not all among them"
        )
    chosen[span.start : span.stop] = True
    if min_images > 1 or max_images is not None:
        images = dataset.images_per_identity()
        chosen &= images >= min_images
        chosen &= images <= (images.max() if max_images is None else max_images)
    if only is not None or without:
        names = dataset.identity_names()
        if only is not None:
            chosen &= _named(names, only)
            unknown = sorted(set(only) - set(names))
            if unknown:
                raise DataError(
                    f"{dataset.path} has no identity {unknown[0]!r}; {len(unknown)} of "
                    f"{len(only)} names to choose do not exist"
                )
        chosen &= ~_named(names, without)
    return np.flatnonzero(chosen)


def read_names(path: Path) -> frozenset[str]:
    """The names of identities in a text file, one a line; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8; write one name a line") from None
    return frozenset(line for line in lines if line.strip())


def _named(names: list[str], wanted: Collection[str]) -> np.ndarray:
    wanted = frozenset(wanted)
    return np.fromiter((name in wanted for name in names), bool, len(names))


def _chosen(dataset: Dataset, shard: int, label_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A shard's records, and the new label of each; -1 for what is left out or does not exist."""
    records = dataset.members(shard)
    label = records["label"]
    exists = (label >= 0) & (label < len(label_of))
    return records, np.where(exists, label_of[np.where(exists, label, 0)], -1)
