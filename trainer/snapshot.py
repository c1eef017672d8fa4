"""One rank's newest numbers as a small JSON file: written whole or not at all, trusted never.

A snapshot that does not fit the table of `trainer.series` (unknown series, odd labels, text where
a number belongs, too large) is refused as a whole; what passes is safe to publish.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import RUN_NAME
from trainer.series import (
    BY_NAME,
    FROM_EXPORTER,
    LABEL_VALUES,
    MAX_LABEL_VALUES,
    Series,
)

FORMAT = 1
MAX_SNAPSHOT_BYTES = 64 * 1024  # ours are below 4 KiB
MAX_RANK = 99_999  # five digits in the file's name

_SNAPSHOT_NAME = re.compile(r"snapshot-rank-(\d{5})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One rank's newest numbers, checked against the table."""

    run: str
    rank: int
    world_size: int
    attempt: int
    time: float
    interval: float
    node: str
    process: str
    values: Mapping[str, Any]
    """Series name → number, or nested by the series' own labels."""

    def samples(self, series: Series) -> Iterator[tuple[tuple[str, ...], float]]:
        """The label values (own labels, in the table's order) and numbers of one series."""
        if series.name in self.values:
            yield from _leaves(self.values[series.name], len(series.own_labels))


def snapshot_path(folder: Path, *, rank: int) -> Path:
    """Where a rank's snapshot lies in a run folder."""
    return folder / "metrics" / f"snapshot-rank-{rank:05d}.json"


def dump(record: Mapping[str, Any]) -> str:
    """One line of strict JSON; a number that is not finite becomes null, as JSON has none."""
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False)


def read_snapshots(folder: Path) -> tuple[list[Snapshot], int]:
    """The good snapshots of the newest attempt of a run folder, and how many files were refused.

    Ranks that the newest attempt does not have (a run resumed on fewer) are left out.
    """
    paths = sorted(
        path
        for path in (folder / "metrics").glob("snapshot-rank-*.json")
        if _SNAPSHOT_NAME.fullmatch(path.name)
    )
    found = [read_snapshot(path) for path in paths]
    good = [snapshot for snapshot in found if snapshot is not None]
    if not good:
        return [], len(found)
    newest = max(good, key=lambda snapshot: (snapshot.attempt, snapshot.time))
    ranks = [snapshot for snapshot in good if snapshot.rank < newest.world_size]
    return ranks, len(found) - len(good)


def read_snapshot(path: Path) -> Snapshot | None:
    """One checked snapshot, or None where there is none or its content does not fit the table."""
    name = _SNAPSHOT_NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SNAPSHOT_BYTES + 1)
        if name is None or len(text) > MAX_SNAPSHOT_BYTES:
            return None
        snapshot = _checked(json.loads(text))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return snapshot if snapshot.rank == int(name[1]) else None


def _checked(raw: dict[str, Any]) -> Snapshot:
    if raw["format"] != FORMAT or not re.fullmatch(RUN_NAME, raw["run"]):
        raise ValueError("not a snapshot of this format")
    world_size = _integer(raw["world_size"], 1, MAX_RANK + 1)
    rank = _integer(raw["rank"], 0, world_size - 1)
    values: dict[str, Any] = {}
    if not isinstance(raw["values"], dict):
        raise ValueError("series have names")
    for name, value in raw["values"].items():
        series = BY_NAME.get(name)
        if series is None or name in FROM_EXPORTER or not (series.per_rank or rank == 0):
            raise ValueError("a series this rank does not publish")
        values[name] = _checked_value(series, value, series.own_labels)
    return Snapshot(
        run=raw["run"],
        rank=rank,
        world_size=world_size,
        attempt=_integer(raw["attempt"], 0, 1_000_000),
        time=_number(raw["time"]),
        interval=_number(raw["interval"]),
        node=str(raw["node"])[:255],
        process=str(raw["process"])[:255],
        values=values,
    )


def _checked_value(series: Series, value: Any, labels: tuple[str, ...]) -> Any:
    if not labels:
        number = math.nan if value is None else _number(value)
        if series.kind == "counter" and not (math.isfinite(number) and number >= 0):
            raise ValueError("a counter is a number from zero up")
        return number
    if not isinstance(value, dict) or len(value) > MAX_LABEL_VALUES:
        raise ValueError("labels nest as the table says")
    for key in value:
        if not LABEL_VALUES[labels[0]].fullmatch(key):
            raise ValueError("a label value that the table does not allow")
    return {key: _checked_value(series, inner, labels[1:]) for key, inner in value.items()}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return float(value)


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError("not a whole number in range")
    return value


def _leaves(value: Any, depth: int) -> Iterator[tuple[tuple[str, ...], float]]:
    if depth == 0:
        yield (), value
        return
    for key, inner in value.items():
        for rest, number in _leaves(inner, depth - 1):
            yield (key, *rest), number


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
