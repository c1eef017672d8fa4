"""The report of a run: one HTML file that needs no network, no script and no server.

Drawn from the run folder alone, so it can be written while the run goes on, after it ended, or
anywhere the folder was copied to. What has not been measured is said to be so.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.report_charts import (
    NOT_MEASURED,
    Array,
    Axis,
    Line,
    line_chart,
    number,
    percent,
    stacked_chart,
)
from trainer.report_data import RunData, as_number, flatten, read_run, smooth
from trainer.report_head import head
from trainer.report_html import STYLE, Html, grid, join, page, section, tag, tile
from trainer.report_tables import date, duration, size, table
from trainer.report_verification import interval, newest, verification
from trainer.run_folder import write_atomically
from trainer.series import PHASES

NOT_RECORDED = "Not recorded yet."

_STEP = Axis(label="step", low=0.0, room=0.015)


def write(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path."""
    run = read_run(folder)
    path = folder / "report.html"
    sections = (verification(run), _training(run), head(run), _speed(run), _record(run))
    body = tag("main", _header(run), *sections)
    write_atomically(path, page(title=f"{run.name} · facescale", style=STYLE, body=body))
    return path


def _header(run: RunData) -> Html:
    return tag(
        "header",
        tag("h1", run.name),
        tag("p", _state(run), class_="lead"),
        tag("div", *(tile(value, label) for value, label in _tiles(run)), class_="tiles"),
    )


def _state(run: RunData) -> str:
    planned = as_number(run.config.get("steps"))
    if not len(run.steps):
        return "No step has been recorded yet."
    done = run.steps.column["step"][-1]
    when = date(run.steps.column["time"][-1])
    if not math.isfinite(planned):
        return f"{done:,.0f} steps, the last one {when}."
    rest = "finished" if done >= planned else "not finished"
    return f"{done:,.0f} of {planned:,.0f} steps, {rest}; the last one {when}."


def _tiles(run: RunData) -> list[tuple[str, str]]:
    tiles: list[tuple[str, str]] = []
    for name, record in newest(run).items():
        accuracy = as_number(record.get("accuracy"))
        if math.isfinite(accuracy):
            label = f"verification accuracy, {name}{_between(record)}"
            tiles.append((percent(accuracy, 0.001), label))
    if not tiles:
        tiles.append(("—", "verification accuracy: not measured yet"))
    column = run.steps.column
    if len(run.steps):
        late = slice(len(run.steps) // 2, None)
        seconds = float(np.nansum(column["total"][late]))
        images = float(np.nansum(column["images"][late]))
        wait = float(np.nansum(column["data_wait"][late]))
        loss = smooth(run.steps.mean("loss"), width=_width(run))[-1]
        tiles.append((number(loss) if math.isfinite(loss) else "—", "training loss, smoothed"))
        if seconds > 0:
            tiles.append((number(round(images / seconds, 1)), "images a second, second half"))
            tiles.append((percent(wait / seconds), "of step time waiting for data, second half"))
        tiles.append((duration(float(np.nansum(column["total"]))), "spent in training steps"))
    return tiles


def _training(run: RunData) -> Html:
    steps, at = run.steps, run.steps.mean("step")
    loss, marks = steps.mean("loss"), run.steps.restarts()
    return section(
        "Training",
        grid(
            line_chart(
                "Loss",
                [
                    Line(
                        name="",
                        x=at,
                        y=loss,
                        low=steps.low("loss"),
                        high=steps.high("loss"),
                        style="faint",
                    ),
                    Line(name="smoothed", x=at, y=smooth(loss, width=_width(run))),
                ],
                x=_STEP,
                y=Axis(label="loss (nats)"),
                marks=marks,
                note=_loss_note(run),
            ),
            line_chart(
                "Learning rate",
                [Line(name="", x=at, y=steps.mean("learning_rate"), colour=3)],
                x=_STEP,
                y=Axis(label="learning rate", low=0.0),
                marks=marks,
            ),
            line_chart(
                "Gradient norm of the backbone, before clipping",
                [Line(name="", x=at, y=steps.mean("gradient_norm"), colour=4)],
                x=_STEP,
                y=Axis(label="L2 norm", low=0.0),
                marks=marks,
            ),
        ),
    )


def _speed(run: RunData) -> Html:
    steps, at, marks = run.steps, run.steps.mean("step"), run.steps.restarts()
    images = steps.share("images", "total")
    parts = [(phase, steps.mean(phase)) for phase in PHASES[:-1]]
    parts.append(("other", steps.other_seconds()))
    unit, factor = "s", 1.0
    total = steps.mean("total")
    if np.isfinite(total).any() and float(np.nanmedian(total)) < 1.0:
        unit, factor = "ms", 1e3
    limit = _limit(total * factor)
    return section(
        "Speed",
        grid(
            line_chart(
                "Throughput of all ranks",
                [Line(name="", x=at, y=images, colour=2)],
                x=_STEP,
                y=Axis(label="images / s", low=0.0),
                marks=marks,
            ),
            line_chart(
                "Share of the step spent waiting for data",
                [Line(name="", x=at, y=steps.share("data_wait", "total"))],
                x=_STEP,
                y=Axis(label="share of step time", low=0.0, percent=True),
                marks=marks,
            ),
            stacked_chart(
                "Where a step's time goes, on rank 0",
                at,
                [(name.replace("_", " "), part * factor) for name, part in parts],
                x=_STEP,
                y=Axis(label=f"{unit} a step", low=0.0, high=limit),
                marks=marks,
                note=f"Cut off at {number(limit)} {unit}: the slowest stretch takes "
                f"{number(round(float(np.nanmax(total)) * factor, 1))} {unit}."
                if limit is not None
                else "",
            ),
            tag(
                "figure",
                tag("figcaption", tag("strong", "Mean step of the second half, on rank 0")),
                table(_split(run), NOT_MEASURED),
            ),
        ),
    )


def _split(run: RunData) -> list[dict[str, str | float]]:
    late = slice(len(run.steps) // 2, None)
    column = {name: run.steps.column[name][late] for name in (*PHASES[:-1], "total")}
    good = np.isfinite(sum(column.values()))
    if not good.any():
        return []
    seconds = {name: float(values[good].mean()) for name, values in column.items()}
    total = seconds.pop("total")
    seconds["other"] = max(0.0, total - sum(seconds.values()))
    return [
        {"part": name.replace("_", " "), "ms": round(s * 1e3, 2), "share": percent(s / total)}
        for name, s in (*seconds.items(), ("whole step", total))
        if total > 0
    ]


def _record(run: RunData) -> Html:
    manifests = [
        {
            "step": m.get("step"),
            "samples seen": m.get("samples_seen"),
            "world size": m.get("world_size"),
            "size": size(as_number(m.get("size"))),
            "written": date(as_number(m.get("written"))),
        }
        for m in run.checkpoints
    ]
    attempts = [
        {key: date(value) if key in ("start", "end") else value for key, value in record.items()}
        for record in run.attempts
    ]
    bad = [{"reason": reason, "samples": count} for reason, count in run.bad_samples.items()]
    versions = [{"package": name, "version": version} for name, version in run.versions.items()]
    config = [{"field": path, "value": value} for path, value in flatten(run.config) if path]
    return join(
        [
            section("Attempts", table(attempts, NOT_RECORDED)),
            section("Checkpoints kept", table(manifests, "None written yet.")),
            section("Bad samples, newest attempt", table(bad, "None met.")),
            section("Versions", table(versions, "Not recorded yet: they come with a checkpoint.")),
            tag(
                "details",
                tag("summary", f"Run file as resolved ({len(config)} fields)"),
                table(config, NOT_RECORDED),
            ),
            tag("footer", f"Written {date(time.time())} by facescale from the run folder alone."),
        ]
    )


def _loss_note(run: RunData) -> str:
    if not len(run.steps):
        return ""
    note = "Pale: the steps themselves. Smoothed by a bell curve, a hundredth of the run wide."
    return note + (" Dashed: a new attempt." if run.steps.restarts() else "")


def _width(run: RunData) -> float:
    return max(1.0, len(run.steps.mean("loss")) / 100)


def _limit(total: Array) -> float | None:
    """Where to cut a chart that one slow stretch (a start, an evaluation) would flatten."""
    good = total[np.isfinite(total)]
    usual = 2.5 * float(np.median(good)) if len(good) else 0.0
    return usual if len(good) and float(good.max()) > usual > 0 else None


def _between(record: Mapping[str, Any]) -> str:
    return f" ({interval(record)})" if interval(record) else ""
