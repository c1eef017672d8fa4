"""Tables of the report, and how it writes dates, sizes and lengths of time."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report_charts import number
from trainer.report_html import Html, tag

MAX_COLUMNS = 12
MAX_ROWS = 500


def table(rows: Sequence[Mapping[str, Any]], empty: str) -> Html:
    """A row a record; columns are the fields that any record has, in the order they are met."""
    columns = list(dict.fromkeys(key for row in rows for key in row))[:MAX_COLUMNS]
    if not columns:
        return tag("p", empty, class_="note")
    numeric = {c: all(_is_number(row.get(c, 0)) for row in rows) for c in columns}
    head = tag(
        "tr",
        *(tag("th", str(c).replace("_", " "), class_="n" if numeric[c] else None) for c in columns),
    )
    body = [
        tag(
            "tr",
            *(tag("td", cell(row.get(c)), class_="n" if numeric[c] else None) for c in columns),
        )
        for row in rows[-MAX_ROWS:]
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="table")


def cell(value: Any) -> str:
    """One value of a table as text."""
    if value is None or value == "":
        return "—"
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else "—"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return str(value)[:400]


def date(timestamp: Any) -> str:
    """A moment, in the time zone that is everybody's; what is no Unix time stays as it is."""
    if not _is_number(timestamp):
        return cell(timestamp)
    try:
        moment = datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """A length of time in the two units that matter."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.3g} s"


def size(count: float) -> str:
    """A number of bytes in binary units."""
    if not math.isfinite(count):
        return "—"
    power = min(4, max(0, math.floor(math.log2(count) / 10))) if count >= 1 else 0
    return f"{number(count / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
