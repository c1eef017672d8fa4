from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from trainer import config, run_folder
from trainer.config import RunConfig
from trainer.errors import RunError


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return config.absolute(
        config.from_tree({"name": "a", "steps": 5, "data": {"path": "d"}}, source="test"), tmp_path
    )


def test_the_folder_keeps_the_resolved_run_file(run: RunConfig):
    folder = run_folder.prepare(run)
    assert config.load(folder / "run.yaml") == run
    assert (folder / "checkpoints").is_dir()


def test_a_run_may_go_on_with_more_steps_and_workers(run: RunConfig):
    run_folder.prepare(run)
    longer = replace(run, steps=50, cluster=replace(run.cluster, workers=3))
    assert config.load(run_folder.prepare(longer) / "run.yaml").steps == 50


def test_a_run_that_computes_something_else_is_refused_and_nothing_is_lost(run: RunConfig):
    folder = run_folder.prepare(run)
    other = replace(run, batch=replace(run.batch, micro_batch_size=2))
    with pytest.raises(RunError, match=r"batch\.micro_batch_size was 64, now 2"):
        run_folder.prepare(other)
    assert config.load(folder / "run.yaml") == run


def test_a_run_from_before_a_field_existed_goes_on_with_its_default(run: RunConfig):
    kept = run_folder.prepare(run) / "run.yaml"
    tree = yaml.safe_load(kept.read_text())
    del tree["head"]["learning_rate_ratio"]
    kept.write_text(yaml.safe_dump(tree))
    run_folder.prepare(run)
    kept.write_text(yaml.safe_dump(tree))
    with pytest.raises(RunError, match=r"head\.learning_rate_ratio was 1\.0, now 2\.0"):
        run_folder.prepare(replace(run, head=replace(run.head, learning_rate_ratio=2.0)))


def test_a_stop_request_ends_with_the_next_start(run: RunConfig):
    folder = run_folder.prepare(run)
    (folder / run_folder.STOP_FILE).touch()
    run_folder.prepare(run)
    assert not (folder / run_folder.STOP_FILE).exists()


def test_differences_are_leaves_with_their_paths():
    before, now = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": 0}
    assert run_folder.differences(before, now) == [("a.c", 2, 3), ("e", None, 0)]
