"""The report's section on verification: accuracy over steps, the ROC, and a table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.report_charts import Axis, Line, line_chart, percent
from trainer.report_data import RunData, as_number
from trainer.report_html import Html, grid, section
from trainer.report_tables import table


def verification(run: RunData) -> Html:
    """The whole section."""
    sets = _by_set(run)
    accuracy = [
        Line(
            name=name,
            x=np.array([as_number(r.get("step")) for r in records]),
            y=np.array([as_number(r.get("accuracy")) for r in records]),
            low=np.array([_bound(r, 0) for r in records]),
            high=np.array([_bound(r, 1) for r in records]),
            colour=index % 6,
            style="dots",
        )
        for index, (name, records) in enumerate(sets.items())
    ]
    curves = [
        line
        for index, (name, record) in enumerate(newest(run).items())
        if (line := _roc(name, record, index % 6)) is not None
    ]
    return section(
        "Verification on people not in training",
        grid(
            line_chart(
                "Accuracy over steps",
                accuracy,
                x=Axis(label="step", low=0.0, room=0.015),
                y=Axis(label="accuracy", percent=True),
                marks=run.steps.restarts(),
                note="Band: interval of each figure, where it was recorded." if accuracy else "",
            ),
            line_chart(
                "ROC, newest evaluation",
                curves,
                x=Axis(label="false-accept rate (FAR)", log=True, high=1.0),
                y=Axis(label="true-accept rate (TAR)", low=0.0, high=1.0, percent=True),
                note="The left end is the smallest rate that the number of pairs can show."
                if curves
                else "",
            ),
        ),
        _verification_table(run),
    )


def newest(run: RunData) -> dict[str, Mapping[str, Any]]:
    """The newest evaluation of each set."""
    return {name: records[-1] for name, records in _by_set(run).items()}


def interval(record: Mapping[str, Any]) -> str:
    """The interval of an evaluation's accuracy as text, empty where it was not recorded."""
    low, high = _bound(record, 0), _bound(record, 1)
    if not math.isfinite(low + high):
        return ""
    return f"{percent(low, 0.001)} to {percent(high, 0.001)}"


def _verification_table(run: RunData) -> Html:
    rows = []
    for name, record in newest(run).items():
        tar = record.get("tar")
        rates = tar.items() if isinstance(tar, dict) else ()
        rows.append(
            {
                "set": name,
                "step": record.get("step"),
                "pairs": record.get("num_pairs"),
                "accuracy": percent(as_number(record.get("accuracy")), 0.0001) + _deviation(record),
                "interval": interval(record) or None,
                "threshold (cosine)": record.get("threshold"),
                "AUC": record.get("auc"),
                **{f"TAR at FAR {far}": as_number(value) for far, value in rates},
            }
        )
    return table(rows, "")


def _roc(name: str, record: Mapping[str, Any], colour: int) -> Line | None:
    roc = record.get("roc")
    if not isinstance(roc, dict):
        return None
    far, tar = (np.array([as_number(v) for v in roc.get(side) or ()]) for side in ("far", "tar"))
    if len(far) != len(tar):
        return None
    shown = far > 0  # a rate of zero has no place on a logarithmic axis
    return Line(name=name, x=far[shown], y=tar[shown], colour=colour) if shown.any() else None


def _by_set(run: RunData) -> dict[str, list[Mapping[str, Any]]]:
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for record in run.evaluations:
        sets.setdefault(str(record.get("set")), []).append(record)
    return sets


def _bound(record: Mapping[str, Any], side: int) -> float:
    pair = record.get("interval")
    return as_number(pair[side]) if isinstance(pair, list) and len(pair) == 2 else math.nan


def _deviation(record: Mapping[str, Any]) -> str:
    deviation = as_number(record.get("accuracy_std"))
    return f" ± {deviation * 100:.2f}" if math.isfinite(deviation) else ""
