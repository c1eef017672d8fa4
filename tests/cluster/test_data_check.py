"""`facescale data check` as a user meets it: what it prints, exits with and repairs."""

import json
import stat
from pathlib import Path

import pytest

from cluster import cli
from data_pipeline.index import Dataset
from tests.data_pipeline.checking.broken import packed, sample, write_tar
from tests.data_pipeline.faces import flip_byte
from tests.data_pipeline.pictures import contents, jpeg, people, write_folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "check", *map(str, arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return packed(tmp_path / "packed")


def test_a_sound_dataset_exits_with_0(capsys, dataset):
    code, out, err = run(capsys, dataset.path, "--workers", "2")
    assert (code, err) == (0, "")
    assert out == f"{dataset.path}: 24 samples, 0 errors, 0 warnings\n"


def test_damage_exits_with_1_and_says_where_and_what_to_do(capsys, dataset):
    flip_byte(dataset, 10)
    code, out, _ = run(capsys, dataset.path)
    assert code == 1
    assert "the bytes of an image have changed since it was packed: copy the file again" in out
    assert "shard-000001.tar, number" in out


def test_several_sources_are_told_apart_in_json(capsys, dataset, tmp_path):
    folder = write_folder(tmp_path / "faces", people({"ann": 2}).images)
    write_tar(tmp_path / "tars/0.tar", [*sample("a"), ("b.jpg", jpeg(1))])
    code, out, err = run(capsys, dataset.path, folder, tmp_path / "tars", "--json")
    told = json.loads(out)
    assert (code, err, told["repairs"]) == (1, "", [])
    assert [(c["form"], c["samples"], c["errors"]) for c in told["checked"]] == [
        ("dataset", 24, 0),
        ("folder", 2, 0),
        ("tars", 1, 1),
    ]
    (finding,) = told["checked"][2]["findings"]
    assert (finding["kind"], finding["severity"], finding["count"]) == ("no_label", "error", 1)
    assert finding["named"] == [{"where": "0.tar: b", "detail": "", "sample": None}]


def test_warnings_alone_exit_with_0(capsys, tmp_path):
    write_tar(tmp_path / "tars/0.tar", [*sample("a", "7"), *sample("b", "Ann")])
    code, out, _ = run(capsys, tmp_path / "tars")
    assert code == 0
    assert "1 warnings" in out


def test_a_fix_leaves_a_sound_dataset(capsys, dataset):
    flip_byte(dataset, 10)
    code, out, _ = run(capsys, dataset.path, "--fix", "--max-lost", "0.1", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["repairs"] == [
        {"path": str(dataset.path), "restored": 0, "shortened": 1, "samples_lost": 1}
    ]
    assert told["checked"][0]["samples"] == 23
    assert run(capsys, dataset.path)[0] == 0


def test_a_fix_that_would_lose_too_much_says_so_and_changes_nothing(capsys, dataset):
    flip_byte(dataset, 10)
    before = contents(dataset.path)
    code, out, _ = run(capsys, dataset.path, "--fix")
    assert code == 1
    assert "would lose 1 of 24 samples, more than the allowed share of 0.01" in out
    assert contents(dataset.path) == before


def test_tars_of_others_are_fixed_only_where_one_says(capsys, tmp_path):
    write_tar(tmp_path / "tars/0.tar", [*sample("a"), ("b.jpg", jpeg(1))])
    before = contents(tmp_path / "tars")
    code, out, _ = run(capsys, tmp_path / "tars", "--fix")
    assert code == 1
    assert "--to FOLDER" in out
    code, out, _ = run(capsys, tmp_path / "tars", "--fix", "--to", tmp_path / "sound", "--json")
    assert code == 0
    assert json.loads(out)["repairs"][0]["samples"] == 1
    assert contents(tmp_path / "tars") == before
    assert run(capsys, tmp_path / "sound/tars.txt")[0] == 0


def test_a_folder_of_images_is_never_fixed(capsys, tmp_path):
    folder = write_folder(tmp_path / "faces", {("ann", "0.jpg"): b"rubbish"})
    code, out, _ = run(capsys, folder, "--fix")
    assert code == 1
    assert "packing leaves out what cannot be used" in out


def test_the_page_is_for_its_owner(capsys, dataset, tmp_path):
    flip_byte(dataset, 10)
    code, _, _ = run(capsys, dataset.path, "--page", tmp_path / "page.html")
    assert code == 1
    assert "sample 10" in (tmp_path / "page.html").read_text()
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "nothing to check"),
        (["a", "b", "--fix", "--to", "c"], 2, "one source"),
        (["a", "--to", "c"], 2, "--to goes with --fix"),
        (["nowhere"], 1, "does not exist"),
        (["https://me:secret@example.org/0.tar"], 1, "name or password"),
    ],
)
def test_what_cannot_be_checked_is_one_line(capsys, arguments, code, reason):
    done, out, err = run(capsys, *arguments)
    assert (done, out, err.count("\n")) == (code, "", 1)
    assert reason in err
    assert "secret" not in err
