import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.run_folders import evaluation_record, publish, step_record
from trainer import report
from trainer.metrics import Metrics
from trainer.report_charts import Axis, Line, line_chart, number, percent, ticks
from trainer.report_data import POINTS, read_steps, smooth
from trainer.report_html import page, tag
from trainer.report_tables import duration, size

SECTIONS = [
    "Verification on people not in training",
    "Training",
    "Head",
    "Speed",
    "Attempts",
    "Checkpoints kept",
    "Bad samples, newest attempt",
    "Versions",
]


class Page(HTMLParser):
    """Elements, attributes and text of a page; checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.elements)


def written(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def finished_run(folder: Path) -> Path:
    publish(folder, steps=60)
    (folder / "run.yaml").write_text("name: run-a\nsteps: 60\nhead: {scale: 64.0}\n")
    (folder / "attempts.jsonl").write_text('{"attempt": 1, "outcome": "finished"}\n')
    checkpoint = folder / "checkpoints" / "step-000000060"
    checkpoint.mkdir(parents=True)
    manifest = {"step": 60, "samples_seen": 3840, "world_size": 2, "versions": {"torch": "2.13.0"}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_finished_run_shows_every_chart_and_table(tmp_path: Path):
    text = " ".join((page := written(finished_run(tmp_path))).text)
    assert "60 of 60 steps, finished" in text
    assert "Not measured yet." not in text
    assert page.count("svg") == 12  # one for the conflicts and one for the margin's t
    for title in SECTIONS:
        assert title in text
    for value in (
        "87.5 %",
        "87.50 % ± 1.25",
        "TAR at FAR 1e-3",
        "head.scale",
        "2.13.0",
        "decode",
        "3,840",
    ):
        assert value in text, value


def test_an_empty_folder_says_what_is_missing_and_invents_nothing(tmp_path: Path):
    page = written(tmp_path)
    text = " ".join(page.text)
    assert "No step has been recorded yet." in text
    assert text.count("Not measured yet.") == 11  # ten charts and the split of a step
    assert page.count("svg") == 0


def test_a_run_without_evaluations_is_honest_about_it(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(1)])
    (tmp_path / "run.yaml").write_text("steps: 100\n")
    text = " ".join((page := written(tmp_path)).text)
    assert "1 of 100 steps, not finished" in text
    assert "verification accuracy: not measured yet" in text
    assert page.count("svg") == 10


def test_what_the_margin_tells_now_and_then_is_a_curve_and_what_never_happens_no_chart(
    tmp_path: Path,
):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    margins = [{"clamped_share": 0.5}, {"clamped_share": 0.25, "bias": 3.0}, "nonsense", {}]
    metrics.step(
        [step_record(i, margin=margin, conflict_share=0.0) for i, margin in enumerate(margins, 1)]
    )
    steps = read_steps(tmp_path / "metrics" / "history.jsonl")
    assert steps.margin_columns() == ["margin.bias", "margin.clamped_share"]
    nan = np.nan
    np.testing.assert_array_equal(steps.column["margin.bias"], [nan, 3.0, nan, nan])
    np.testing.assert_array_equal(steps.column["margin.clamped_share"], [0.5, 0.25, nan, nan])
    text = " ".join(written(tmp_path).text)
    assert "Margin: clamped share" in text
    assert "Negatives above conflict_cosine" not in text


def test_the_page_needs_no_network_and_no_script(tmp_path: Path):
    report_file = report.write(finished_run(tmp_path))
    page = Page(report_file.read_text(encoding="utf-8"))
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "use"}
    for _, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "style", "srcset"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    text = report_file.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text


def test_text_of_a_run_is_never_markup(tmp_path: Path):
    evil = "<script>alert(1)</script>\"'&"
    folder = finished_run(tmp_path)
    (folder / "run.yaml").write_text(json.dumps({"name": evil, evil: evil}))
    (folder / "attempts.jsonl").write_text(json.dumps({evil: evil, "attempt": 1}) + "\n")
    metrics = Metrics(folder, run="a", rank=0, world_size=1, attempt=1)
    metrics.evaluation(evaluation_record(60, set=evil, tar={evil: 0.5}))
    page = written(folder)
    assert page.count("script") == 0
    assert " ".join(page.text).count(evil) >= 6


@pytest.mark.parametrize("name", ["run.yaml", "attempts.jsonl", "metrics/history.jsonl"])
@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"step": 1, "seconds": 3}\n', "\0"])
def test_damaged_files_do_not_stop_the_report(tmp_path: Path, name: str, text: str):
    folder = finished_run(tmp_path)
    (folder / name).write_text(text)
    assert "run" in " ".join(written(folder).text).lower()


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": None},
        {"accuracy": "high"},
        {"roc": None},
        {"roc": {"far": [0.0], "tar": [1.0]}},
        {"roc": {"far": [0.1, 0.2], "tar": [1.0]}},
        {"roc": {"far": ["x"], "tar": [None]}},
        {"interval": None},
        {"tar": None},
        {"step": None},
    ],
    ids=str,
)
def test_an_odd_evaluation_does_not_stop_the_report(tmp_path: Path, change):
    lines = tmp_path / "metrics" / "evaluations.jsonl"
    lines.parent.mkdir()
    lines.write_text(json.dumps(evaluation_record(1) | change) + "\n")
    assert written(tmp_path).count("h1") == 1


def test_losses_that_are_not_finite_leave_a_gap(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    losses = [3.0, 2.0, float("nan"), 1.0, 0.5]
    metrics.step([step_record(i, loss=loss) for i, loss in enumerate(losses, start=1)])
    steps = read_steps(tmp_path / "metrics" / "history.jsonl")
    assert np.isnan(steps.mean("loss")).tolist() == [False, False, True, False, False]
    figure = str(line_chart("", [Line(name="", x=np.arange(5.0), y=steps.mean("loss"))],
                            x=Axis(label="step"), y=Axis(label="loss")))  # fmt: skip
    assert figure.count("<polyline") == 2


def test_a_long_history_is_thinned_but_its_extremes_stay(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(i, loss=1.0) for i in range(1, 3001)])
    metrics.step([step_record(3001, loss=50.0)])
    steps = read_steps(tmp_path / "metrics" / "history.jsonl")
    assert len(steps.mean("loss")) == POINTS
    assert steps.high("loss")[-1] == 50.0
    assert report.write(tmp_path).stat().st_size < 300_000


def test_attempts_are_told_with_dates_and_words(tmp_path: Path):
    attempt = {"attempt": 0, "start": 1795330171.5, "end": None, "state": "failed", "error": ""}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(attempt | {"high_water_step": 11}) + "\n")
    text = written(tmp_path).text
    assert "2026-11-22 06:49 UTC" in text  # date -u -d @1795330171
    assert "high water step" in text
    assert text.count("—") == 3, "no end, no error, no accuracy"


def test_one_evaluation_shows_its_interval(tmp_path: Path):
    publish(tmp_path, steps=3)
    page = written(tmp_path)
    whiskers = [a for tag, a in page.elements if tag == "line" and a.get("class") == "curve s0"]
    assert len(whiskers) == 1


def test_restarts_are_marked_where_the_attempt_changes(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(i, attempt=1 if i < 5 else 2) for i in range(1, 9)])
    assert read_steps(tmp_path / "metrics" / "history.jsonl").restarts() == [5.0]


def test_smoothing_keeps_a_constant_and_leans_to_neither_side():
    # weights are divided by their own sum, so only rounding remains: 1e-12 is 4 digits above it
    np.testing.assert_allclose(smooth(np.full(50, 7.0), width=3.0), 7.0, rtol=1e-12)
    line = np.arange(101.0)
    assert smooth(line, width=4.0)[50] == pytest.approx(50.0, rel=1e-12)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside_the_range(low: float, span: float):
    marks = ticks(low, low + span)
    assert 2 <= len(marks) <= 7
    slack = 1e-6 * max(span, abs(low))
    assert all(low - slack <= mark <= low + span + slack for mark in marks)
    first_digit = f"{marks[1] - marks[0]:.0e}"[0]
    assert first_digit in "125" or span < 1e-9 * abs(low)


def test_numbers_read_well():
    assert [number(v) for v in (1234567.0, 1234.0, 0.25, 0)] == ["1.23M", "1,234", "0.25", "0"]
    assert [number(v, 0.05) for v in (0.1, 0.15)] == ["0.10", "0.15"]
    assert percent(0.91234, 0.001) == "91.2 %"
    assert [duration(s) for s in (0.5, 61.0, 7260.0, 2e5)] == [
        "0.5 s",
        "1 min 1 s",
        "2 h 1 min",
        "2 d 7 h",
    ]
    assert [size(n) for n in (0.0, 1023.0, 1536.0, 3 * 2.0**30)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "3 GiB",
    ]


def test_the_style_hash_is_that_of_the_style():
    text = page(title="t", style="b{}", body=tag("b", "x"))
    policy = re.search(r"sha256-([^']+)'", text)
    # printf 'b{}' | openssl dgst -sha256 -binary | base64
    assert policy is not None
    assert policy[1] == "7yqHVAesot11p6HczDsgKRipvI5UPgs97z80zNXlans="
