import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc import Statistics
from tests.trainer.run_folders import START, evaluation_record, publish, step_record
from trainer.metrics import EVALUATIONS, HISTORY, Metrics, read_lines, truncate_history
from trainer.process import process_alive, process_mark
from trainer.series import BY_NAME, FROM_EXPORTER, HEAD_STATISTICS, PHASES, PREFIX, TABLE
from trainer.snapshot import MAX_SNAPSHOT_BYTES, read_snapshot, read_snapshots, snapshot_path


def newest(folder: Path, rank: int = 0):
    snapshot = read_snapshot(snapshot_path(folder, rank=rank))
    assert snapshot is not None
    return snapshot


def sample(folder: Path, name: str, *labels: str, rank: int = 0) -> float:
    return dict(newest(folder, rank).samples(BY_NAME[name]))[labels]


def test_names_follow_prometheus_rules():
    allowed = {"run", "rank", "set", "far", "phase", "reason", "cause", "quantity"}
    for series in TABLE:
        assert series.full_name.startswith(PREFIX)
        assert (series.kind == "counter") == series.name.endswith("_total")
        assert set(series.labels) <= allowed
        assert series.labels[0] == "run"
        assert series.help.endswith(".")
        assert not series.name.endswith("_age_seconds")
    assert len({series.name for series in TABLE}) == len(TABLE)


def test_every_series_is_published_by_somebody(tmp_path: Path):
    publish(tmp_path, steps=3).step([step_record(4, device_memory_bytes=1024)])
    published = set(newest(tmp_path).values)
    assert published | set(FROM_EXPORTER) == set(BY_NAME)


def test_seconds_add_up_to_the_whole_steps(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(1), step_record(2)])
    metrics.step([step_record(3)])
    seconds = {phase: sample(tmp_path, "step_seconds_total", phase) for phase in PHASES}
    # 1 s a step, 0.875 s of it in named parts: sums of eighths, so exact in binary
    assert seconds["other"] == 3 * 0.125
    assert sum(seconds.values()) == 3.0


def test_speed_is_images_over_seconds_of_the_interval_not_the_mean_of_speeds(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    slow = step_record(2, images_per_second=16.0)
    slow["seconds"] = slow["seconds"] | {"total": 4.0}
    metrics.step([step_record(1), slow])
    assert sample(tmp_path, "images_per_second") == 128 / 5  # the mean of 64 and 16 would be 40


def test_only_rank_zero_writes_history_and_series_of_the_run(tmp_path: Path):
    publish(tmp_path, steps=2, rank=1, world_size=2)
    assert not (tmp_path / HISTORY).exists()
    assert not (tmp_path / EVALUATIONS).exists()
    assert all(BY_NAME[name].per_rank for name in newest(tmp_path, rank=1).values)
    assert sample(tmp_path, "step", rank=1) == 2


def test_history_keeps_losses_bit_for_bit(tmp_path: Path):
    loss = 0.1 + 0.2
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(1, loss=loss), step_record(2, loss=float("nan"))])
    first, second = read_lines(tmp_path / HISTORY)
    assert first["loss"] == loss
    assert second["loss"] is None, "strict JSON has no NaN"
    text = (tmp_path / HISTORY).read_text()
    assert json.loads(text.splitlines()[1], parse_constant=pytest.fail)["step"] == 2


def test_a_loss_that_is_not_a_number_is_published_as_such(tmp_path: Path):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    metrics.step([step_record(1, loss=float("inf"), skipped=["backbone"])])
    assert sample(tmp_path, "loss") != sample(tmp_path, "loss")
    assert sample(tmp_path, "skipped_steps_total", "backbone") == 1
    assert sample(tmp_path, "skipped_steps_total", "head") == 0


def test_what_the_head_tells_of_a_step_is_published_under_the_same_names(tmp_path: Path):
    publish(tmp_path, steps=2).step([step_record(3, top1=0.5, used_maximum=True)])
    assert sample(tmp_path, "top1") == 0.5
    assert sample(tmp_path, "margin", "t") == 0.125
    assert sample(tmp_path, "maximum_steps_total") == 1
    assert sample(tmp_path, "centre_length", "longest") == 2.0
    assert sample(tmp_path, "never_seen_ratio") == 0.01
    assert set(HEAD_STATISTICS) < {field.name for field in fields(Statistics)}


def test_counters_begin_at_zero_for_known_labels(tmp_path: Path):
    Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    assert all(sample(tmp_path, "step_seconds_total", phase) == 0 for phase in PHASES)
    assert sample(tmp_path, "checkpoint_failures_total") == 0


def test_resuming_keeps_each_step_once(tmp_path: Path):
    metrics = publish(tmp_path, steps=5)
    metrics.evaluation(evaluation_record(3))
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"step": 6, "lo')  # cut off by the death of its writer
    truncate_history(tmp_path, 3)
    again = Metrics(tmp_path, run="run-a", rank=0, world_size=1, attempt=2)
    again.step([step_record(4, loss=0.5), step_record(5)])
    assert [record["step"] for record in read_lines(tmp_path / HISTORY)] == [1, 2, 3, 4, 5]
    assert [record["step"] for record in read_lines(tmp_path / EVALUATIONS)] == [3]


def test_truncating_where_there_is_no_history_does_nothing(tmp_path: Path):
    truncate_history(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_restart_keeps_the_last_evaluation_and_checkpoint_visible(tmp_path: Path):
    publish(tmp_path, steps=5)
    Metrics(tmp_path, run="run-a", rank=0, world_size=1, attempt=2)
    assert sample(tmp_path, "verification_tar_ratio", "lfw", "1e-2") == 0.5
    assert sample(tmp_path, "checkpoint_bytes") == 4096
    assert sample(tmp_path, "checkpoints_total") == 0, "counters count this attempt"
    Metrics(tmp_path, run="another", rank=0, world_size=1, attempt=1)
    assert "checkpoint_bytes" not in newest(tmp_path).values


def test_a_failed_checkpoint_leaves_the_last_good_one(tmp_path: Path):
    metrics = publish(tmp_path, steps=1)
    before = sample(tmp_path, "checkpoint_last_success_timestamp_seconds")
    metrics.checkpoint_failed()
    assert sample(tmp_path, "checkpoint_last_success_timestamp_seconds") == before
    assert sample(tmp_path, "checkpoint_failures_total") == 1
    assert sample(tmp_path, "checkpoints_total") == 2


def test_error_texts_and_paths_never_become_reasons(tmp_path: Path):
    metrics = publish(tmp_path, steps=1)
    metrics.bad_samples({"/data/person-17/3.jpg": 1, 'x"} 1\nevil 2': 1, "OSError: no": 1})
    metrics.bad_samples({f"reason_{index}": 1 for index in range(100)})
    reasons = {labels[0] for labels, _ in newest(tmp_path).samples(BY_NAME["bad_samples_total"])}
    assert reasons == {"decode", "other", *(f"reason_{index}" for index in range(13))}
    total = sum(value for _, value in newest(tmp_path).samples(BY_NAME["bad_samples_total"]))
    assert total == 2 + 3 + 100


def test_training_goes_on_while_the_disk_refuses_and_no_line_is_lost(tmp_path: Path, caplog):
    metrics = Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1)
    (tmp_path / HISTORY).mkdir()  # refuses to be written, as a full disk does
    metrics.step([step_record(1)])
    metrics.step([step_record(2)])
    assert len(caplog.records) == 1, "said once, not at every interval"
    (tmp_path / HISTORY).rmdir()
    metrics.step([step_record(3)])
    assert [record["step"] for record in read_lines(tmp_path / HISTORY)] == [1, 2, 3]


def test_a_snapshot_is_always_whole_while_it_is_being_replaced(tmp_path: Path):
    metrics = publish(tmp_path, steps=1)
    program = (
        "import sys; from pathlib import Path; from trainer.snapshot import read_snapshot\n"
        "print('ready', flush=True)\n"
        "print(sum(read_snapshot(Path(sys.argv[1])) is None for _ in range(400)))"
    )
    path = snapshot_path(tmp_path, rank=0)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        step = 1
        while reader.poll() is None:
            step += 1
            metrics.step([step_record(step)])
        assert reader.stdout.read().strip() == "0"


def test_ranks_that_the_newest_attempt_does_not_have_are_left_out(tmp_path: Path):
    for rank in range(3):
        Metrics(tmp_path, run="a", rank=rank, world_size=3, attempt=1)
    Metrics(tmp_path, run="a", rank=0, world_size=2, attempt=2)
    snapshots, refused = read_snapshots(tmp_path)
    assert [snapshot.rank for snapshot in snapshots] == [0, 1]
    assert refused == 0


HOSTILE = {
    "empty": "",
    "list": "[]",
    "deep": "[" * 60_000,
    "huge": " " * (MAX_SNAPSHOT_BYTES + 1),
    "number": "1" * 5000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_text_that_is_no_snapshot_is_refused(tmp_path: Path, text: str):
    publish(tmp_path, steps=1)
    snapshot_path(tmp_path, rank=1).write_text(text)
    snapshots, refused = read_snapshots(tmp_path)
    assert [snapshot.rank for snapshot in snapshots] == [0]
    assert refused == 1


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"run": "../evil"},
        {"run": "a\n"},
        {"run": 7},
        {"rank": True},
        {"rank": 1},  # not the rank of the file's name
        {"world_size": 0},
        {"attempt": -1},
        {"time": "now"},
        {"values": []},
        {"values": {"evil_series": 1}},
        {"values": {"rank_up": 1}},  # the exporter's own finding
        {"values": {"loss": "1"}},
        {"values": {"loss": True}},
        {"values": {"loss": {"a": 1}}},
        {"values": {"loss": 10**400}},
        {"values": {"samples_total": -1}},
        {"values": {"samples_total": None}},
        {"values": {"step_seconds_total": 1}},
        {"values": {"step_seconds_total": {"sleep": 1}}},
        {"values": {"bad_samples_total": {'a"} 1\nevil 1': 1}}},
        {"values": {"bad_samples_total": {f"r{index}": 1 for index in range(17)}}},
        {"values": {"verification_tar_ratio": {"lfw": {"1e-1\n": 1}}}},
    ],
    ids=str,
)
def test_a_snapshot_that_does_not_fit_the_table_is_refused(tmp_path: Path, change):
    publish(tmp_path, steps=1)
    path = snapshot_path(tmp_path, rank=0)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_snapshot(path) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    key=st.sampled_from(["run", "rank", "time", "interval", "values", "node"]), value=json_values
)
def test_any_json_in_any_field_is_refused_or_safe(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("run")
    publish(folder, steps=1)
    path = snapshot_path(folder, rank=0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    snapshot = read_snapshot(path)
    if snapshot is not None:
        for name in snapshot.values:
            for _, number in snapshot.samples(BY_NAME[name]):
                assert isinstance(number, float)


def test_a_process_is_known_by_more_than_its_number():
    own = process_mark(os.getpid())
    assert process_alive(own) is True
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        mark = process_mark(child.pid)
        assert process_alive(mark) is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_alive(mark) is False, "a zombie is dead"
    assert process_alive(mark) is False
    place, _, _ = own.rpartition(" pid ")
    assert process_alive(f"{place} pid {os.getpid()} 1") is False, "the number was used again"
    assert process_alive(f"another-boot pid:[1] pid {os.getpid()} 1") is None


def test_clock_is_an_argument(tmp_path: Path):
    Metrics(tmp_path, run="a", rank=0, world_size=1, attempt=1, clock=lambda: START)
    assert newest(tmp_path).time == START
    assert sample(tmp_path, "start_timestamp_seconds") == START
