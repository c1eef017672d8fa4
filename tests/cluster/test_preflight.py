import pytest

from cluster.preflight import can_hold, examine, needed
from cluster.workers import installed_version
from trainer import config


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "run" / ".visible"
    path.parent.mkdir()
    path.write_text("here")
    return path


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "index.json").touch()
    return folder


def test_a_node_that_sees_everything_has_no_problem(marker, data):
    assert examine(marker, "here", [data], installed_version()) == []


def test_another_version_is_told_with_both_numbers(marker, data):
    (problem,) = examine(marker, "here", [data], "99.1")
    assert "99.1" in problem
    assert installed_version() in problem


def test_a_missing_run_folder_is_named(marker, data):
    (problem,) = examine(marker.parent / "gone" / "x", "here", [data], installed_version())
    assert str(marker.parent / "gone") in problem


def test_another_disk_at_the_same_path_is_noticed(marker, data):
    (problem,) = examine(marker, "there", [data], installed_version())
    assert "another folder at" in problem


def test_missing_data_is_named(marker, tmp_path):
    (problem,) = examine(marker, "here", [tmp_path / "nowhere"], installed_version())
    assert str(tmp_path / "nowhere") in problem


def test_verification_sets_are_needed_like_the_training_set():
    run = config.from_tree(
        {
            "name": "a",
            "steps": 1,
            "data": {"path": "/train"},
            "verify": [{"name": "lfw", "path": "/lfw"}],
        },
        source="test",
    )
    assert [str(path) for path in needed(run)] == ["/train", "/lfw"]
    assert can_hold({"CPU": 1.0}, run)
    assert not can_hold({"CPU": 0.0}, run)  # a head that runs no workers needs no data
    assert not can_hold({"memory": 1e9}, run)
