import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, document
from trainer.series import PREFIX, TABLE

RULES = DEPLOY / "prometheus/rules/facescale.yml"
CASES = Path(__file__).parent / "rules_test.yml"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def rules() -> list[dict[str, Any]]:
    groups = document("prometheus/rules/facescale.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> set[str]:
    return {rule["alert"] for rule in rules() if "alert" in rule}


def test_promtool_accepts_the_configuration_and_its_rules():
    checked = promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


def test_each_alert_fires_when_it_should_and_never_on_a_healthy_run(tmp_path: Path):
    cases = tmp_path / "rules_test.yml"
    cases.write_text(CASES.read_text().replace("RULES", str(RULES)))
    tested = promtool("test", "rules", cases)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case():
    assert set(re.findall(r"alertname: (\w+)", CASES.read_text())) == alerts()


@pytest.mark.parametrize("broken", ["== 0\n        for: 2m", "> 600", "> 7200"])
def test_the_cases_would_find_a_broken_rule(tmp_path: Path, broken: str):
    text = RULES.read_text()
    assert broken in text
    rules_file = tmp_path / "rules.yml"
    rules_file.write_text(text.replace(broken, broken.replace("== 0", "== 1").replace("> ", "< ")))
    cases = tmp_path / "rules_test.yml"
    cases.write_text(CASES.read_text().replace("RULES", str(rules_file)))
    assert promtool("test", "rules", cases).returncode != 0


def test_rules_use_only_series_of_the_table():
    known = {series.full_name for series in TABLE}
    for rule in rules():
        recorded = {r["record"] for r in rules() if "record" in r}
        names = set(re.findall(rf"(?<![\w:]){PREFIX}\w+", rule["expr"]))
        assert names <= known, rule
        assert names or rule["expr"].startswith("up{") or any(r in rule["expr"] for r in recorded)


def test_every_alert_says_how_bad_and_where():
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.match(r"(\{\{ \$labels\.run \}\}|node \{\{)", rule["annotations"]["summary"])


def test_scrapes_are_bounded_and_find_the_exporters_by_their_own_files():
    (job,) = document("prometheus/prometheus.yml")["scrape_configs"]
    assert job["job_name"] == "facescale"
    assert job["file_sd_configs"][0]["files"] == ["/runs/.targets/*.json"]
    for limit in ("sample_limit", "label_limit", "label_value_length_limit", "body_size_limit"):
        assert job[limit]
