"""`facescale data import` and `export` as a user meets them."""

import json
import pickle
from pathlib import Path
from typing import get_args

import pytest

from cluster import cli, data_import
from data_pipeline.pack import pack
from data_pipeline.sources.opening import open_source
from data_pipeline.verification_sets import importing
from tests.data_pipeline.pictures import jpeg

LIST = "1 a.jpg b.jpg\n0 a.jpg c.jpg\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", *map(str, arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(seed))
    (tmp_path / "list.txt").write_text(LIST)
    return tmp_path


def test_a_bin_and_a_list_become_sets_with_their_pairs(capsys, folder: Path):
    images = [jpeg(seed) for seed in (0, 1, 0, 2)]
    (folder / "set.bin").write_bytes(pickle.dumps((images, [True, False])))
    for kind, source in (("bin", "set.bin"), ("flagged", "list.txt")):
        code, out, _ = run(capsys, "import", kind, folder / source, folder / kind, "--json")
        assert code == 0
        assert {"samples": 3, "pairs": 2}.items() <= json.loads(out).items()


def test_the_folder_of_images_may_be_elsewhere(capsys, folder: Path, tmp_path: Path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(LIST)
    arguments = ("import", "flagged", tmp_path / "lists" / "list.txt", tmp_path / "set")
    code, _, err = run(capsys, *arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "a.jpg: cannot be read: No such file" in err
    assert run(capsys, *arguments, "--images", folder)[0] == 0


def test_a_folder_of_images_for_a_set_that_holds_its_own_is_refused(capsys, folder: Path):
    code, _, err = run(
        capsys, "import", "bin", folder / "x.bin", folder / "set", "--images", folder
    )
    assert code == 1
    assert err == ("facescale: a set of the kind bin holds its images; name no folder of images\n")


def test_an_exported_set_is_packed_again(capsys, folder: Path):
    (folder / "list.csv").write_text("a.jpg,ann\nb.jpg,ann\nc.jpg,bob\n")

    pack(open_source(folder / "list.csv"), folder / "packed")
    code, out, _ = run(capsys, "export", folder / "packed", folder / "rec", "--json")
    assert code == 0
    assert json.loads(out) == {"path": str(folder / "rec"), "images": 3, "identities": 2}
    again = pack(open_source(folder / "rec"), folder / "again")
    assert (again.num_samples, again.num_identities) == (3, 2)


def test_exporting_what_is_no_dataset_is_one_line(capsys, folder: Path):
    code, _, err = run(capsys, "export", folder, folder / "rec")
    assert (code, err.count("\n")) == (1, 1)
    assert not (folder / "rec").exists()


def test_the_command_line_offers_every_kind_of_set():
    assert set(get_args(data_import.Kind)) == set(get_args(importing.Kind))


def test_pairs_of_originals_are_brought_upright(capsys, tmp_path: Path):
    for name in ("ann/ann_1.jpg", "ann/ann_2.jpg", "bob/bob_1.jpg"):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(jpeg(len(name), 200))
    (tmp_path / "pairs.txt").write_text("1\nann\t1\t2\nann\t1\tbob\t1\n")
    points = "60 80 120 80 90 110 65 140 115 140"
    (tmp_path / "points.txt").write_text(f"ann/ann_1.jpg {points}\nbob/bob_1.jpg {points}\n")
    code, out, _ = run(
        capsys,
        "pairs",
        tmp_path / "faces",
        tmp_path / "pairs.txt",
        tmp_path / "set",
        "--landmarks",
        tmp_path / "points.txt",
        "--align",
        "112x96",
        "--json",
    )
    assert code == 0
    expected = {"samples": 3, "pairs": 2, "image_size": [112, 96]}
    assert expected.items() <= json.loads(out).items()
