import json
import re

from cluster.dashboard import grafana
from cluster.dashboard.panels import expressions
from tests.deploy.files import DEPLOY
from trainer.series import PREFIX, TABLE

COMMITTED = DEPLOY / "grafana/dashboards/facescale.json"

VARIABLES_ONLY = {"facescale_run_info"}
"""Series that no panel draws: they list the runs to choose from."""


def test_the_committed_dashboard_is_the_generated_one():
    again = "python -m cluster.dashboard.grafana > deploy/grafana/dashboards/facescale.json"
    assert COMMITTED.read_text() == grafana.text(), again


def test_every_series_is_drawn_and_nothing_else():
    drawn = set(re.findall(rf"{PREFIX}\w+", " ".join(expressions())))
    table = {series.full_name for series in TABLE}
    assert drawn == table - VARIABLES_ONLY
    variables = json.dumps(grafana.dashboard()["templating"])
    assert all(name in variables for name in VARIABLES_ONLY)


def test_counters_are_drawn_as_rates_or_increases():
    totals = {"facescale_bad_samples_total"}  # its height is the message
    for expression in expressions():
        for name in re.findall(rf"{PREFIX}\w+_total", expression):
            changing = re.search(rf"(rate|increase)\({name}{{", expression)
            assert changing or name in totals, expression


def test_panels_fill_the_grid_without_overlap():
    places = [panel["gridPos"] for panel in grafana.dashboard()["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    ids = [panel["id"] for panel in grafana.dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_says_what_it_shows():
    for panel in grafana.dashboard()["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert [target["refId"] for target in panel["targets"]] == list("ABCDEF")[
                : len(panel["targets"])
            ]
