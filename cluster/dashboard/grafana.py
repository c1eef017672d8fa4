"""Generates the Grafana dashboard from the panels, and so from the table of series.

`python -m cluster.dashboard.grafana > deploy/grafana/dashboards/facescale.json`; a test keeps the
committed file equal to this.
"""

import json
import sys
from typing import Any

from cluster.dashboard.panels import ROWS, Panel
from trainer.series import BY_NAME

TITLE = "facescale"
UID = "facescale-overview"
SCHEMA_VERSION = 39  # Grafana 10.3 and later read it as it is

_COLUMNS = 24  # Grafana's grid
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The whole dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(_row(title, number=len(panels) + 1, top=top))
        top, left, height = top + 1, 0, 4 if row[0].kind == "stat" else 8
        for panel in row:
            if left + panel.width > _COLUMNS:
                top, left = top + height, 0
            place = {"h": height, "w": panel.width, "x": left, "y": top}
            panels.append(_drawn(panel, number=len(panels) + 1, place=place))
            left += panel.width
        top += height
    return {
        "uid": UID,
        "title": TITLE,
        "tags": ["facescale"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    run = _label("run", f"label_values({BY_NAME['run_info'].full_name}, run)")
    rank = _label("rank", f'label_values({BY_NAME["rank_up"].full_name}{{run="$run"}}, rank)')
    return [source, run, rank | {"multi": True, "includeAll": True, "allValue": ".*"}]


def _label(name: str, values: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": values, "refId": name},
        "refresh": 2,  # at each change of the time range: runs come and go
        "sort": 3,
    }


def _row(title: str, *, number: int, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place,
            "panels": []}  # fmt: skip


def _drawn(panel: Panel, *, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    defaults |= {k: v for k, v in (("min", panel.low), ("max", panel.high)) if v is not None}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 1 if panel.stacked else 2,
            "fillOpacity": 70 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "showPoints": "auto",
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"},
                   "tooltip": {"mode": "multi"}}  # fmt: skip
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _thresholds(panel: Panel) -> dict[str, Any]:
    if panel.warn_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.warn_below}]
    elif panel.warn_above is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.warn_above}]
    else:
        steps = [{"color": "green", "value": None}]
    return {"mode": "absolute", "steps": steps}


def text() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
