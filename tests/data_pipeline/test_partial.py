from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.partial import committed_folder, resumable_folder


def test_a_folder_appears_only_when_all_of_it_is_written(tmp_path):
    dest = tmp_path / "deep" / "out"
    with committed_folder(dest) as partial:
        (partial / "file").write_text("content")
        assert not dest.exists()
    assert (dest / "file").read_text() == "content"
    assert [path.name for path in dest.parent.iterdir()] == ["out"]


def test_an_exception_leaves_nothing(tmp_path):
    def interrupted():
        with committed_folder(tmp_path / "out") as partial:
            (partial / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_replaced(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "old").write_text("half")
    with committed_folder(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_a_living_writer_is_not_disturbed(tmp_path):
    with committed_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("first")
        with (
            pytest.raises(DataError, match="is being written by another process"),
            committed_folder(tmp_path / "out"),
        ):
            pass
    assert (tmp_path / "out" / "file").read_text() == "first"


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_an_existing_destination_is_refused(tmp_path, kind):
    dest = tmp_path / "out"
    if kind == "folder":
        dest.mkdir()
    elif kind == "file":
        dest.write_text("mine")
    else:
        dest.symlink_to("nowhere")
    with (
        pytest.raises(DataError, match="exists already and is left as it is"),
        committed_folder(dest),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_destination_made_by_somebody_else_meanwhile_is_left_alone(tmp_path):
    dest = tmp_path / "out"
    with pytest.raises(DataError, match="made by somebody else"), committed_folder(dest):
        dest.mkdir()
    assert list(dest.iterdir()) == []
    assert not (tmp_path / "out.partial").exists()


def test_a_link_in_the_place_of_the_partial_folder_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "out.partial").symlink_to("precious")
    with pytest.raises(DataError, match="cannot write"), committed_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(DataError, match=r"cannot write .*file/out.partial"),
        committed_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_no_descriptor_stays_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("a", "b"):
        with committed_folder(tmp_path / name):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_resumable_folder_appears_whole_and_without_its_scratch(tmp_path):
    with resumable_folder(tmp_path / "out") as unfinished:
        (unfinished.dataset / "file").write_text("content")
        (unfinished.scratch / "notes").write_text("on the way")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


@pytest.mark.parametrize("restart", [False, True])
def test_an_exception_leaves_a_folder_that_is_worth_keeping_unless_told_to_restart(
    tmp_path, restart
):
    def interrupted():
        with resumable_folder(tmp_path / "out") as unfinished:
            (unfinished.dataset / "file").write_text("half")
            unfinished.worth_keeping = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not (tmp_path / "out").exists()
    with resumable_folder(tmp_path / "out", restart=restart) as unfinished:
        assert (unfinished.dataset / "file").exists() is not restart


def test_an_exception_leaves_nothing_of_what_is_not_worth_keeping(tmp_path):
    def interrupted():
        with resumable_folder(tmp_path / "out") as unfinished:
            (unfinished.dataset / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_resumable_folder_in_use_is_not_disturbed(tmp_path, restart):
    with resumable_folder(tmp_path / "out") as unfinished:
        (unfinished.dataset / "file").write_text("first")
        with (
            pytest.raises(DataError, match="is being written by another process"),
            resumable_folder(tmp_path / "out", restart=restart),
        ):
            pass
    assert (tmp_path / "out" / "file").read_text() == "first"
