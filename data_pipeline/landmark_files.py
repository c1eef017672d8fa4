"""Reading files of landmarks, whatever tool wrote them.

Text has a line an image: its path, then x and y of each point in turn, then maybe a score, which is
passed over. Tabs or commas (with quotes, where needed) or spaces separate; a line of names may come
first, and a line with the number of images before it. That is LFW's and CelebA's list and IJB's
`name_5pts_score.txt`. A line of JSON (`.jsonl`) has "path" and "landmarks", a list of points or
of numbers; Parquet has such columns, or one of numbers for each coordinate as in text.

Points are five as `align` orders them, or the 68 of the usual scheme, of which five are made.
An entry without landmarks (null or an empty list) is none.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow
from jaxtyping import Float64
from pyarrow import parquet

from data_pipeline.errors import DataError

BATCH = 4096  # rows at once
EYES, NOSE, MOUTH = ((36, 39), (42, 45)), 30, (48, 54)  # of 68 points, as insightface's IJB code
NUMBERS = {10: 5, 11: 5, 136: 68, 137: 68}  # in a row, one may be a score: how many points

_JSON_SUFFIXES = frozenset((".jsonl", ".ndjson"))
_EXPECTED = "a path and x and y of 5 or 68 points in turn"
_AXIS = re.compile(r"(?:^|[^a-z])([xy])(?:[^a-z]|$)")

Rows = tuple[list[str], Float64[np.ndarray, "rows 5 2"]]
"""Paths, and points in pixels."""


def read_landmarks(path: Path | str) -> Iterator[Rows]:
    """The rows of a file, some thousand at a time.

    Raises:
        DataError: the file cannot be read, or a row is not as described, whose number is named.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix in _JSON_SUFFIXES:
            with path.open(encoding="utf-8-sig") as stream:
                yield from _batches(path, enumerate(stream, 1), _of_json)
        else:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield from _text(path, stream)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None
    except (csv.Error, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path} is not a file of landmarks: {reason}") from None


def five_of(numbers: Float64[np.ndarray, "rows numbers"]) -> Float64[np.ndarray, "rows 5 2"]:
    """Five points of rows of `NUMBERS`: of 68, the middle of each eye's corners stands for it."""
    points = numbers[:, : numbers.shape[1] & ~1].reshape(len(numbers), -1, 2)
    if points.shape[1] == 5:
        return points
    eyes = [points[:, corners].mean(axis=1) for corners in EYES]
    return np.stack((*eyes, points[:, NOSE], *(points[:, corner] for corner in MOUTH)), axis=1)


def _batches(
    path: Path,
    rows: Iterable[tuple[int, Any]],
    parse: Callable[[Any], tuple[str, list[float]] | None],
) -> Iterator[Rows]:
    """Parse numbered rows; those that are none, by `parse`, are left out."""
    stream = iter(rows)
    while piece := list(islice(stream, BATCH)):
        names: list[str] = []
        numbers: list[Float64[np.ndarray, "5 2"]] = []
        for number, row in piece:
            try:
                parsed = parse(row)
                if parsed is None:
                    continue
                values = np.array(parsed[1], np.float64).reshape(1, -1)
                if not parsed[0] or values.shape[1] not in NUMBERS:
                    raise ValueError
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                raise DataError(
                    f"{path}, row {number}: expected {_EXPECTED}, got {str(row).strip()[:80]!r}"
                ) from None
            names.append(parsed[0])
            numbers.append(five_of(values)[0])
        if names:
            yield names, np.stack(numbers)


def _of_json(line: str) -> tuple[str, list[float]] | None:
    if not line.strip():
        return None
    entry = json.loads(line)
    return _of_entry(entry["path"], entry["landmarks"])


def _of_entry(name: object, landmarks: Sequence[Any] | None) -> tuple[str, list[float]] | None:
    if not isinstance(name, str):
        raise TypeError
    if landmarks is None or not len(landmarks):
        return None
    return name, np.array(landmarks, np.float64).ravel().tolist()


def _parquet(path: Path) -> Iterator[Rows]:
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if "path" not in names:
            raise DataError(f"{path} has no column 'path'")
        if "landmarks" in names:
            columns, parse = ["path", "landmarks"], lambda row: _of_entry(*row)
        else:
            columns = ["path", *(name for name in names if name != "path")]
            _refuse_other_order(path, columns[1:])
            parse = _of_cells
        batches = (
            batch.select(columns) for batch in file.iter_batches(batch_size=BATCH, columns=columns)
        )
        rows = (row for batch in batches for row in zip(*batch.to_pydict().values(), strict=True))
        yield from _batches(path, enumerate(rows, 1), parse)


def _text(path: Path, stream: TextIO) -> Iterator[Rows]:
    lines = enumerate(stream, 1)
    number, first = _next(lines)
    if first.strip().isdecimal():  # CelebA's number of images
        number, first = _next(lines)
    cells = _separated(first)
    if len(cells) > 1 and not any(map(_is_number, cells)):  # names of columns
        _refuse_other_order(path, cells)
        number, first = _next(lines)
        cells = _separated(first)
    if not first.strip():
        raise DataError(f"{path} names no images")
    separator = _separator(first)
    width = len(cells) - 1
    if separator is None:  # names may hold spaces, numbers do not
        width = next((n for n in sorted(NUMBERS, reverse=True) if _ends_in_numbers(cells, n)), 0)
    if width not in NUMBERS:
        raise DataError(f"{path}, row {number}: expected {_EXPECTED}, got {first.strip()[:80]!r}")

    def rows() -> Iterator[tuple[int, list[str]]]:
        if separator is not None:
            texts = (line for _, line in lines)
            yield from enumerate(csv.reader(_and(first, texts), delimiter=separator), number)
            return
        yield number, first.strip().rsplit(None, width)
        for at, line in lines:
            yield at, line.strip().rsplit(None, width)

    def parse(cells: list[str]) -> tuple[str, list[float]] | None:
        if not cells:
            return None
        if len(cells) != width + 1:
            raise ValueError
        return _of_cells(cells)

    yield from _batches(path, rows(), parse)


def _next(lines: Iterator[tuple[int, str]]) -> tuple[int, str]:
    return next(lines, (0, ""))


def _and(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _separator(line: str) -> str | None:
    return "\t" if "\t" in line else "," if "," in line else None


def _separated(line: str) -> list[str]:
    separator = _separator(line)
    if separator is None:
        return line.split()
    return next(csv.reader([line], delimiter=separator))


def _of_cells(cells: Sequence[Any]) -> tuple[str, list[float]]:
    name, *numbers = cells
    if not isinstance(name, str):
        raise TypeError
    return name, [float(number) for number in numbers]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ends_in_numbers(cells: Sequence[str], count: int) -> bool:
    return len(cells) > count and all(map(_is_number, cells[-count:]))


def _refuse_other_order(path: Path, names: Sequence[str]) -> None:
    """Refuse columns whose names say that they are not x and y in turn."""
    found = [match[1] for name in names if (match := _AXIS.search(name.lower()))]
    if found != ["x", "y"] * (len(found) // 2):
        raise DataError(
            f"{path}: its columns are {', '.join(names)[:120]}; expected x and y of each point in "
            "turn"
        )
