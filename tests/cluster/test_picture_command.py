"""`facescale picture` as a user meets it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cluster import cli
from data_pipeline.synthetic import synthesize
from tests.trainer.export.networks import SIDE, run_folder
from trainer.layers.page import GAP, LINE, WORDS
from trainer.layers.page import SIDE as TILE

BACKBONE = """
  name: mobilefacenet
  replace:
    - {what: pointwise, stages: [2], with: {kind: drconv, regions: 3}}
    - {what: depthwise, stages: [4], with: {kind: tvconv, hidden: 2, layers: 0}}"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["picture", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a network with both kinds of layers, and its faces beside it."""
    folder = tmp_path_factory.mktemp("trained")
    synthesize(folder / "faces", identities=4, images=2, size=SIDE)
    return run_folder(folder / "a-run", data=folder / "faces", side=2 * SIDE, backbone=BACKBONE)


def test_a_run_becomes_a_picture_and_numbers(capsys, trained: Path, tmp_path: Path):
    dest = tmp_path / "layers.png"
    code, out, errors = run(capsys, trained, dest, "--most-faces", "5", "--shown", "3", "--json")
    assert (code, errors) == (0, "")
    said = json.loads(out)
    assert (said["run"], said["step"], said["faces"]) == ("a-run", "12", 5)
    assert said["bytes"] == dest.stat().st_size
    assert all(len(use["shares"]) == 3 for use in said["regions"].values())
    assert all(abs(sum(use["shares"]) - 1) < 1e-6 for use in said["regions"].values())
    assert all(found["map"] == [2, 2] for found in said["positions"].values())
    guides, layers = len(said["regions"]), len(said["positions"])
    with Image.open(dest) as image:
        assert image.format == "PNG"
        # A row of faces, one a guide of a block of two convolutions, and one a layer of positions.
        rows = 1 + guides // 2 + layers
        assert image.height == 2 * GAP + LINE + rows * (TILE + GAP)
        assert image.width == GAP + WORDS + 6 * (TILE + GAP)


def test_what_is_printed_for_people_has_a_line_a_layer(capsys, trained: Path, tmp_path: Path):
    code, out, _ = run(capsys, trained, tmp_path / "layers.png", "--most-faces", "2")
    assert code == 0
    assert "made-up people" in out
    assert ", evenness " in out
    assert "kernels differ from their mean by " in out


@pytest.mark.parametrize(("faces", "others"), [("faces", 0), (None, stat.S_IRGRP | stat.S_IROTH)])
def test_a_picture_of_a_datasets_faces_is_its_owners_alone(
    capsys, trained: Path, tmp_path: Path, faces: str | None, others: int
):
    dest = tmp_path / "layers.png"
    given = [] if faces is None else ["--faces", trained.parent / faces]
    before = os.umask(0o022)
    try:
        code, *_ = run(capsys, trained, dest, *given, "--most-faces", "2")
    finally:
        os.umask(before)
    assert code == 0
    assert stat.S_IMODE(dest.stat().st_mode) == stat.S_IRUSR | stat.S_IWUSR | others


def test_a_file_that_is_there_is_never_replaced(capsys, trained: Path, tmp_path: Path):
    dest = tmp_path / "layers.png"
    dest.write_bytes(b"mine")
    code, _, errors = run(capsys, trained, dest)
    assert (code, errors.count("\n")) == (1, 1)
    assert "exists; choose another name" in errors
    assert dest.read_bytes() == b"mine"


def test_a_network_without_such_layers_is_said_in_a_line(capsys, tmp_path: Path):
    folder = run_folder(tmp_path / "plain", data=tmp_path)
    code, _, errors = run(capsys, folder, tmp_path / "layers.png")
    assert (code, errors.count("\n")) == (1, 1)
    assert "has no DRConv or TVConv layer to show" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runs/none", "x.png"], 1, "neither a run folder nor a checkpoint"),
        (["{trained}", "x.jpg"], 2, "give one that ends in .png"),
        (["{trained}", "none/x.png"], 1, "none is no folder"),
        (["{trained}", "x.png", "--faces", "none"], 1, "none"),
        (["{trained}", "x.png", "--shown", "0"], 2, "at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys, monkeypatch, tmp_path: Path, trained: Path, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    found, out, errors = run(capsys, *(word.format(trained=trained) for word in arguments))
    assert (found, out, errors.count("\n")) == (code, "", 1)
    assert words in errors
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_torch():
    look = (
        "import sys\nfrom cluster import cli\ntry: cli.main(['picture', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'PIL'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True)
    assert printed.stdout.splitlines()[-1] == b"[]"
