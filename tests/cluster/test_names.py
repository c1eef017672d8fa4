import pytest

from cluster import names
from cluster.errors import ClusterError


@pytest.mark.parametrize("name", ["a", "7", "web-face-42", "a" * 63])
def test_labels_are_names(name):
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "../a", "a b", "a\n", "$(id)", "é", "a" * 64],
)
def test_whatever_could_be_a_path_or_a_command_is_no_name(name):
    with pytest.raises(ClusterError, match="is no run name"):
        names.check(name)


def test_a_name_is_looked_up_among_the_runs_and_a_path_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.yaml").touch()
    assert names.run_folder("one", tmp_path / "runs") == folder
    assert names.run_folder(str(folder), tmp_path) == folder


def test_a_run_that_is_not_there_is_told_with_the_place_that_was_looked_in(tmp_path):
    with pytest.raises(ClusterError, match=str(tmp_path)):
        names.run_folder("one", tmp_path)
    with pytest.raises(ClusterError, match="not a run folder"):
        names.run_folder("../one", tmp_path)
