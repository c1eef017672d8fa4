"""The pair lists of CFP, CALFW, CPLFW, SLLFW and AgeDB-30, packed with their images.

    cfp-ff, cfp-fp   Protocol/: Pair_list_F.txt and Pair_list_P.txt (`number path`), and ten folders
                     Split/FF or Split/FP/01 ... of same.txt and diff.txt (`number,number`)
    calfw, cplfw     two lines a pair, `path number`; number 0 means different persons
    sllfw            two lines a pair, `person/image`, same where the persons are
    flagged          one line a pair, `flag path path` or `path path flag` with flag 1 or 0 (or -1):
                     the form in which AgeDB-30 and aligned copies of the others are passed on

Paths are relative to the folder of images. LFW's own format is `pairs_file`'s.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Literal

import numpy as np
import pyarrow
from jaxtyping import Bool, Int64

from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.pack import Packed
from data_pipeline.pairs import PairSet, pack_with_pairs
from data_pipeline.pairs_draw import Pairs
from data_pipeline.sources.lists import ListSource
from data_pipeline.verification_sets.implied import folds_in_order, implied_identities
from data_pipeline.verification_sets.text_lines import read_lines

ListForm = Literal["cfp-ff", "cfp-fp", "calfw", "cplfw", "sllfw", "flagged"]

_CFP_FOLDS = 10
_SAME = {"1": True, "0": False, "-1": False}


@dataclass(frozen=True, kw_only=True)
class PairList:
    """Pairs of image files, in the order of a list."""

    images: tuple[str, ...]
    """Paths relative to the folder of images, each once."""
    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int64[np.ndarray, " pairs"]


def read_pair_list(path: Path | str, form: ListForm) -> PairList:
    """Read a list; for CFP, `path` is the folder Protocol.

    Raises:
        DataError: a file is missing, cut, or has a line of another form, which is named.
    """
    return _READERS[form](Path(path))


def pack_pair_list(
    path: Path | str,
    form: ListForm,
    images: Path | str,
    dest: Path | str,
    *,
    alignment: Alignment | None = None,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> PairSet:
    """Pack the images of a list, each once, with its pairs; `images` is the folder they lie in.

    An image that is missing or unreadable is an error: a verification set is fixed.
    """
    listed = read_pair_list(path, form)
    implied = implied_identities(listed.first, listed.second, listed.same)
    rows = {
        "path": [listed.images[image] for image in implied.image.tolist()],
        "label": [f"{identity:06d}" for identity in implied.identity.tolist()],
    }
    batches = pyarrow.table(rows).to_batches()
    if not Path(images).is_dir():
        raise DataError(f"the folder of images {images} does not exist")
    source = ListSource.of(batches, root=Path(images), name=str(path))

    def pairs_of(packed: Packed) -> Pairs:
        sample_of = {image: sample for sample, image in enumerate(packed.images)}
        sample = np.array([sample_of[face] for face in source], np.int64)
        return Pairs(
            first=sample[implied.first],
            second=sample[implied.second],
            same=listed.same,
            fold=listed.fold,
        )

    return pack_with_pairs(
        source,
        dest,
        pairs_of,
        alignment=alignment,
        seed=seed,
        workers=workers,
        show_progress=show_progress,
    )


def _cfp(protocol: Path, second_list: Literal["F", "P"]) -> PairList:
    lists = {kind: _numbered_paths(protocol / f"Pair_list_{kind}.txt") for kind in "FP"}
    pairs: list[tuple[str, str, bool]] = []
    fold: list[int] = []
    for k in range(_CFP_FOLDS):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            file = protocol / "Split" / f"F{second_list}" / f"{k + 1:02d}" / name
            for line, text in read_lines(file):
                try:
                    first, second = text.split(",")
                    pairs.append((lists["F"][int(first)], lists[second_list][int(second)], same))
                except (KeyError, ValueError):
                    raise DataError(
                        f"{file}, line {line}: expected `number,number` of images in the lists, "
                        f"got {text[:80]!r}"
                    ) from None
                fold.append(k)
    return _listed(pairs, fold=np.array(fold, np.int64))


def _numbered_paths(file: Path) -> dict[int, str]:
    """Paths by number, relative to the folder above the protocol's instead of to the protocol."""
    paths = {}
    for line, text in read_lines(file):
        try:
            number, path = text.split(None, 1)
            paths[int(number)] = normpath(f"Protocol/{path}")
        except ValueError:
            raise DataError(
                f"{file}, line {line}: expected `number path`, got {text[:80]!r}"
            ) from None
    return paths


def _marked(path: Path) -> PairList:
    pairs = []
    for line, above, below in _two_lines(path):
        try:
            (first, mark), (second, other) = above.rsplit(None, 1), below.rsplit(None, 1)
            if int(mark) != int(other):
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}, line {line}: expected two lines `path number` of one number, got "
                f"{above[:80]!r} and {below[:80]!r}"
            ) from None
        pairs.append((first, second, int(mark) != 0))
    return _listed(pairs)


def _sllfw(path: Path) -> PairList:
    pairs = []
    for line, above, below in _two_lines(path):
        persons = [text.partition("/")[0] for text in (above, below) if text.count("/") == 1]
        if len(persons) != 2:
            raise DataError(
                f"{path}, line {line}: expected two lines `person/image`, got {above[:80]!r} and "
                f"{below[:80]!r}"
            )
        pairs.append((above, below, persons[0] == persons[1]))
    return _listed(pairs)


def _two_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """(number of the first line, first line, second line) of each pair."""
    lines = read_lines(path)
    if len(lines) % 2:
        raise DataError(f"{path} has an odd number of lines, but a pair has two; copy it again")
    for (line, above), (_, below) in zip(lines[0::2], lines[1::2], strict=True):
        yield line, above, below


def _flagged(path: Path) -> PairList:
    pairs = []
    for line, text in read_lines(path):
        fields = text.split("\t") if "\t" in text else text.split()
        if len(fields) == 3 and fields[0] in _SAME:
            pairs.append((fields[1], fields[2], _SAME[fields[0]]))
        elif len(fields) == 3 and fields[2] in _SAME:
            pairs.append((fields[0], fields[1], _SAME[fields[2]]))
        else:
            raise DataError(
                f"{path}, line {line}: expected `flag path path` or `path path flag` with a flag "
                f"of 1 or 0, got {text[:80]!r}"
            )
    return _listed(pairs)


def _listed(
    pairs: list[tuple[str, str, bool]], *, fold: Int64[np.ndarray, " pairs"] | None = None
) -> PairList:
    number: dict[str, int] = {}
    ends = [
        (number.setdefault(first, len(number)), number.setdefault(second, len(number)))
        for first, second, _ in pairs
    ]
    first, second = np.array(ends, np.int64).T
    same = np.array([same for _, _, same in pairs], np.bool_)
    return PairList(
        images=tuple(number),
        first=first,
        second=second,
        same=same,
        fold=folds_in_order(same) if fold is None else fold,
    )


_READERS: Mapping[ListForm, Callable[[Path], PairList]] = {
    "cfp-ff": lambda path: _cfp(path, "F"),
    "cfp-fp": lambda path: _cfp(path, "P"),
    "calfw": _marked,
    "cplfw": _marked,
    "sllfw": _sllfw,
    "flagged": _flagged,
}
