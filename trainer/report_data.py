"""What the report shows of a run folder, read with patience: anything may still be missing.

A long history is read once, as columns of numbers, and thinned to a few hundred points before
anything is drawn.
"""

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import yaml

from trainer.metrics import EVALUATIONS, HISTORY, read_lines
from trainer.report_charts import Array
from trainer.series import HEAD_STATISTICS, MAX_LABEL_VALUES, PHASES
from trainer.snapshot import read_snapshots

POINTS = 400  # a chart is about 480 pixels wide

_FIELDS = (
    "step",
    "samples_seen",
    "loss",
    "learning_rate",
    *HEAD_STATISTICS,
    "gradient_norm",
    "images_per_second",
    "time",
    "attempt",
)
_SECONDS = (*PHASES[:-1], "total")
_MARGIN = "margin."


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """The history as columns, a number a step.

    Seconds are columns named by their part, what the margin tells are `margin.<quantity>`.
    """

    column: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.column["step"])

    def mean(self, name: str) -> Array:
        """The mean of a column in each of at most `POINTS` stretches of equal length."""
        return self._ratio(self.column[name], np.ones(len(self)))

    def share(self, part: str, whole: str) -> Array:
        """The sum of one column over the sum of another, in each stretch."""
        return self._ratio(self.column[part], self.column[whole])

    def low(self, name: str) -> Array:
        """The least of a column in each stretch."""
        return self._reduced(np.fmin, self.column[name])

    def high(self, name: str) -> Array:
        """The greatest of a column in each stretch."""
        return self._reduced(np.fmax, self.column[name])

    def other_seconds(self) -> Array:
        """Mean seconds of a step that no named part took, in each stretch."""
        named = sum(self.mean(part) for part in PHASES[:-1])
        return np.maximum(self.mean("total") - named, 0.0)

    def margin_columns(self) -> list[str]:
        """The columns that the margin of this run has."""
        return sorted(name for name in self.column if name.startswith(_MARGIN))

    def restarts(self) -> list[float]:
        """The steps at which a new attempt begins."""
        attempt = self.column["attempt"]
        return [float(step) for step in self.column["step"][1:][np.diff(attempt) != 0]]

    def _ratio(self, part: Array, whole: Array) -> Array:
        good = np.isfinite(part) & np.isfinite(whole)
        top = self._reduced(np.add, np.where(good, part, 0.0))
        bottom = self._reduced(np.add, np.where(good, whole, 0.0))
        return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)

    def _reduced(self, function: np.ufunc, column: Array) -> Array:
        if not len(self):
            return np.empty(0)
        stretches = min(len(self), POINTS)
        starts = np.arange(stretches) * len(self) // stretches
        return function.reduceat(column, starts)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """Everything the report is drawn from."""

    name: str
    config: Mapping[str, Any]
    steps: Steps
    evaluations: Sequence[Mapping[str, Any]]
    attempts: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[Mapping[str, Any]]
    bad_samples: Mapping[str, float]
    versions: Mapping[str, str]


def read_run(folder: Path) -> RunData:
    """Collect a run folder; parts that are not there yet come out empty."""
    manifests = [_manifest(path) for path in sorted((folder / "checkpoints").glob("step-*"))]
    checkpoints = [manifest for manifest in manifests if manifest]
    versions = checkpoints[-1].get("versions") if checkpoints else None
    return RunData(
        name=folder.resolve().name,
        config=_config(folder / "run.yaml"),
        steps=read_steps(folder / HISTORY),
        evaluations=_evaluations(folder / EVALUATIONS),
        attempts=list(read_lines(folder / "attempts.jsonl")),
        checkpoints=checkpoints,
        bad_samples=_bad_samples(folder),
        versions={str(k): str(v) for k, v in versions.items()} if _is_map(versions) else {},
    )


def read_steps(path: Path) -> Steps:
    """The history as columns; what is not a number becomes NaN."""
    columns = {name: array("d") for name in (*_FIELDS, *_SECONDS)}
    for record in read_lines(path):
        seconds = record.get("seconds")
        if not math.isfinite(as_number(record.get("step"))):
            continue
        for name in _FIELDS:
            columns[name].append(as_number(record.get(name)))
        for name in _SECONDS:
            columns[name].append(as_number(seconds.get(name) if _is_map(seconds) else None))
        _append_margin(columns, record.get("margin"))
    column = {name: np.array(values) for name, values in columns.items()}
    return Steps(column={**column, "images": column["images_per_second"] * column["total"]})


def _append_margin(columns: dict[str, "array[float]"], margin: Any) -> None:
    """Add one step's quantities; one that comes up late has gaps before, one left out has one."""
    length = len(columns["step"])
    for name, value in margin.items() if _is_map(margin) else ():
        if len(columns) < len(_FIELDS) + len(_SECONDS) + MAX_LABEL_VALUES:
            column = columns.setdefault(_MARGIN + name, array("d"))
            column.extend([math.nan] * (length - 1 - len(column)))
            column.append(as_number(value))
    for name, column in columns.items():
        if name.startswith(_MARGIN):
            column.extend([math.nan] * (length - len(column)))


def smooth(values: Array, *, width: float) -> Array:
    """Mean weighted by a bell curve of standard deviation `width`; it leans to neither side.

    Gaps weigh nothing, and so does what lies beyond the ends.
    """
    reach = math.ceil(3 * width)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-9)) ** 2)
    good = np.isfinite(values)
    if not good.any():
        return np.full(len(values), np.nan)
    inside = slice(reach, reach + len(values))
    top = np.convolve(np.where(good, values, 0.0), bell)[inside]
    weight = np.convolve(good.astype(float), bell)[inside]
    return np.divide(top, weight, out=np.full(len(values), np.nan), where=weight > 0)


def flatten(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """A config tree as (dotted path, value)."""
    if _is_map(tree) and tree:
        return [
            row
            for key, inner in tree.items()
            for row in flatten(inner, f"{path}.{key}" if path else str(key))
        ]
    return [(path, "not set" if tree is None else str(tree))]


def as_number(value: Any) -> float:
    """A float, or NaN for anything that is no number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if is_number else float("nan")
    except OverflowError:
        return float("nan")


def _evaluations(path: Path) -> list[Mapping[str, Any]]:
    """One a set and step, the newest where it was repeated, in the order of steps."""
    found: dict[tuple[str, float], Mapping[str, Any]] = {}
    for record in read_lines(path):
        found[str(record.get("set")), as_number(record.get("step"))] = record
    return [record for (_, step), record in sorted(found.items()) if np.isfinite(step)]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    except (OSError, ValueError, RecursionError):
        return {}
    if not _is_map(manifest):
        return {}
    size = sum(file.st_size for file in files)
    return {**manifest, "folder": folder.name, "size": size, "written": path.stat().st_mtime}


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if _is_map(config) else {}


def _bad_samples(folder: Path) -> dict[str, float]:
    counts: dict[str, float] = {}
    for snapshot in read_snapshots(folder)[0]:
        for reason, count in snapshot.values.get("bad_samples_total", {}).items():
            counts[reason] = counts.get(reason, 0.0) + count
    return counts


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)
