"""The report's section on the head: how faces lie to centres, and what the margin measures."""

import numpy as np

from trainer.report_charts import Axis, Line, line_chart
from trainer.report_data import RunData
from trainer.report_html import Html, grid, section

_STEP = Axis(label="step", low=0.0, room=0.015)


def head(run: RunData) -> Html:
    """The whole section; conflicts and the margin's numbers only where there are any."""
    cosines = [
        _line(run, "target_cosine", "own centre (target), mean", 0),
        _line(run, "target_cosine_p05", "own centre, 5 % of faces below", 2),
        _line(run, "hardest_negative_cosine", "nearest other centre, mean", 1),
    ]
    shares = [
        _line(run, "top1", "faces nearest to their own centre", 0),
        _line(run, "negative_mass", "probability of all other centres", 1),
    ]
    charts = [
        _chart(run, "Cosine of a face with centres", cosines, Axis(label="cosine")),
        _chart(
            run,
            "Recognised in training",
            shares,
            Axis(label="share", low=0.0, high=1.0, percent=True),
        ),
    ]
    if np.nan_to_num(run.steps.column["conflict_share"]).any():
        conflicts = [_line(run, "conflict_share", "", 3)]
        axis = Axis(label="share of negatives", low=0.0, percent=True)
        charts.append(_chart(run, "Negatives above conflict_cosine", conflicts, axis))
    for name in run.steps.margin_columns():
        quantity = name.removeprefix("margin.").replace("_", " ")
        charts.append(
            _chart(run, f"Margin: {quantity}", [_line(run, name, "", 4)], Axis(label=quantity))
        )
    return section("Head", grid(*charts))


def _line(run: RunData, column: str, name: str, colour: int) -> Line:
    """A curve through the stretches that have a number: some are told once a log interval."""
    x, y = run.steps.mean("step"), run.steps.mean(column)
    told = np.isfinite(y)
    return Line(name=name, x=x[told], y=y[told], colour=colour)


def _chart(run: RunData, title: str, lines: list[Line], y: Axis) -> Html:
    return line_chart(title, lines, x=_STEP, y=y, marks=run.steps.restarts())
