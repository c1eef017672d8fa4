"""What a source holds and in which order it is packed, kept on disk however much it is.

Images are sorted by name, so that the order of listing is of no matter; then their order and that
of the labels are permutations by key. In memory lie 8 bytes an identity and a few thousand names.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Int64

from data_pipeline.errors import DataError
from data_pipeline.progress import progress_bar
from data_pipeline.rows_on_disk import Row, ShuffledRows, SortedRows
from data_pipeline.sources import Source


class ListedImage(NamedTuple):
    """An image by its names in the source, and the label of its identity."""

    identity: str
    image: str
    label: int


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images of a source in the order of packing; `list_source` makes one."""

    digest: str
    """sha256 of all names: the same for the same names in any order of listing."""
    label_of: Int64[np.ndarray, " identities"]
    """The label of each identity, in order of names."""
    _images: ShuffledRows
    _identities: ShuffledRows

    @property
    def num_images(self) -> int:
        """How many images the source lists."""
        return len(self._images)

    @property
    def num_identities(self) -> int:
        """How many labels there are, before any is given up for want of readable images."""
        return len(self.label_of)

    def images(self, start: int = 0) -> Iterator[ListedImage]:
        """The images from a position of the order on."""
        return (self._listed(row) for _, row in self._images.rows(start))

    def images_at(self, positions: Int64[np.ndarray, " some"]) -> Iterator[ListedImage]:
        """The images at some positions, which ascend."""
        return (self._listed(row) for _, row in self._images.at(positions))

    def names(self) -> Iterator[str]:
        """The name of each label, in order of labels."""
        return (cast(str, row[0]) for _, row in self._identities.rows())

    def _listed(self, row: Row) -> ListedImage:
        number, identity, image = cast(tuple[int, str, str], row)
        return ListedImage(identity, image, int(self.label_of[number]))


def list_source(source: Source, folder: Path, *, seed: int, show_progress: bool = False) -> Listing:
    """List a source into `folder`, which is made anew; one without images is refused."""
    shutil.rmtree(folder, ignore_errors=True)
    with progress_bar("listing", unit=" images", show=show_progress) as bar:
        in_order = SortedRows(_counted(source, bar.update), folder / "sorted")
    if not len(in_order):
        raise DataError("the source holds no images")
    with (folder / "names").open("w", encoding="ascii") as names:
        numbered = _Numbered(cast(Iterable[tuple[str, str]], in_order), names.write)
        images = ShuffledRows(numbered, folder / "images", "pack order", seed, count=len(in_order))
    shutil.rmtree(folder / "sorted")
    with (folder / "names").open(encoding="ascii") as names:
        identities = ShuffledRows(
            ((json.loads(line),) for line in names),
            folder / "identities",
            "labels",
            seed,
            count=numbered.identities,
        )
    label_of = np.empty(len(identities), np.int64)
    for label, (number, _) in enumerate(identities.rows()):
        label_of[number] = label
    return Listing(
        digest=numbered.digest.hexdigest(),
        label_of=label_of,
        _images=images,
        _identities=identities,
    )


def _counted(
    names: Iterable[tuple[str, str]], count: Callable[[], object]
) -> Iterator[tuple[str, str]]:
    for name in names:
        yield name
        count()


class _Numbered:
    """Iterates over sorted names as (number of the identity, identity, image), once."""

    def __init__(self, names: Iterable[tuple[str, str]], write: Callable[[str], object]) -> None:
        self.identities = 0
        self.digest = hashlib.sha256()
        self._names = names
        self._write = write

    def __iter__(self) -> Iterator[Row]:
        before: tuple[str, str] | None = None
        for name in self._names:
            if name == before:
                raise DataError(f"the source lists the image {name[1]!r} of {name[0]!r} twice")
            if before is None or name[0] != before[0]:
                self._write(json.dumps(name[0]) + "\n")
                self.identities += 1
            self.digest.update(json.dumps(name).encode())
            before = name
            yield (self.identities - 1, *name)
