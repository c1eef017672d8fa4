"""LFW's text format for verification pairs, and finding the images that it numbers.

One header line, then lines `name i j` (images i and j of one person) and `name1 i name2 j` (two
persons), separated by tabs or spaces. Image i of a person is the file `<name>_<i>.<suffix>` in the
person's folder, with any number of zeros before i.

The header `folds<TAB>n` means n same and n different pairs a fold, fold after fold. The header `n`
or `1<TAB>n` means one list, which we cut into ten folds by a fixed rule: contiguous, same and
different pairs apart, each as equal as can be with the larger folds first (the cut of
scikit-learn's unshuffled KFold), so that every fold is balanced.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline.errors import DataError

FOLDS = 10  # LFW's protocol

_NUMBER = re.compile(r".*_([0-9]+)\.[^.]+")


@dataclass(frozen=True, kw_only=True)
class NamedPair:
    """One line of a pairs file: (person, image number) twice."""

    first: tuple[str, int]
    second: tuple[str, int]
    fold: int
    line: int
    """Counted from 1, for messages."""

    @property
    def same(self) -> bool:
        """Whether both images show one person."""
        return self.first[0] == self.second[0]


def read_pairs(path: Path | str) -> list[NamedPair]:
    """The pairs of a file in LFW's format, in its order, with their folds."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read the pairs file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the pairs file {path} is not UTF-8 text: {error}") from error
    folds, each = _header(path, lines)
    fields = [(i, _fields(line)) for i, line in enumerate(lines[1:], 2) if line.strip()]
    same = np.array([len(parts) == 3 for _, parts in fields], np.bool_)
    if (same.sum(), (~same).sum()) != (folds * each, folds * each):
        raise DataError(
            f"{path} names {same.sum()} same and {(~same).sum()} different pairs, but its header "
            f"promises {folds * each} of each; the file is cut or its header wrong"
        )
    fold = np.empty(len(fields), np.int64)
    if folds == 1:
        fold[same] = fold[~same] = even_folds(each, min(FOLDS, each))
    else:
        fold[:] = np.arange(len(fields)) // (2 * each)
        if (np.bincount(fold[same], minlength=folds) != each).any():
            raise DataError(f"{path}: its {folds} folds do not hold {each} same pairs each")
    return [
        _named_pair(path, line, parts, int(k))
        for (line, parts), k in zip(fields, fold, strict=True)
    ]


def even_folds(count: int, folds: int) -> Int64[np.ndarray, " count"]:
    """The fold of each of `count` pairs: contiguous, the first `count % folds` one longer."""
    each, longer = divmod(count, folds)
    return np.repeat(np.arange(folds), [each + (k < longer) for k in range(folds)])


class NumberedImages:
    """Looks up the file name of image number i of a person."""

    def __init__(self, images: Mapping[str, Sequence[str]], *, source: Path) -> None:
        """Take the file names of each person's images."""
        self._images = images
        self._source = source
        self._by_number: dict[str, dict[int, list[str]]] = {}

    def find(self, person: str, number: int) -> tuple[str, str]:
        """(person, file name), as the source lists them."""
        if person not in self._by_number:
            numbered: dict[int, list[str]] = {}
            for name in self._images.get(person, ()):
                if match := _NUMBER.fullmatch(name):
                    numbered.setdefault(int(match[1]), []).append(name)
            self._by_number[person] = numbered
        found = self._by_number[person].get(number, [])
        if len(found) != 1:
            what = f"both {' and '.join(found)}" if found else "no such file"
            raise DataError(f"image {number} of {person!r} in {self._source}: {what}")
        return person, found[0]


def _header(path: Path, lines: Sequence[str]) -> tuple[int, int]:
    header = lines[0].split() if lines else []
    if len(header) not in (1, 2) or not all(re.fullmatch("[1-9][0-9]{0,8}", n) for n in header):
        raise DataError(
            f"{path} does not begin with LFW's header: the number of folds and of same pairs in "
            "each, e.g. `10<TAB>300`, or the number of same pairs alone"
        )
    return (int(header[0]), int(header[1])) if len(header) == 2 else (1, int(header[0]))


def _fields(line: str) -> list[str]:
    return [part.strip() for part in line.split("\t")] if "\t" in line else line.split()


def _named_pair(path: Path, line: int, parts: list[str], fold: int) -> NamedPair:
    if len(parts) == 3:
        parts = [parts[0], parts[1], parts[0], parts[2]]
        sound = parts[1] != parts[3]
    else:
        sound = len(parts) == 4 and parts[0] != parts[2]
    if not sound or not all(re.fullmatch("[0-9]{1,9}", parts[k]) for k in (1, 3)):
        raise DataError(f"{path}, line {line}: expected `name i j` or `name1 i name2 j`")
    return NamedPair(
        first=(parts[0], int(parts[1])), second=(parts[2], int(parts[3])), fold=fold, line=line
    )
