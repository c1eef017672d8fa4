"""`facescale export` as a user meets it, and the program that deploy/ serves its files with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from cluster import cli
from data_pipeline.synthetic import synthesize
from tests.trainer.export.networks import SIDE, run_folder
from trainer.export.source import from_run

PROGRAM = Path(__file__).parents[2] / "deploy" / "serving" / "compare_faces.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, with its faces beside it."""
    folder = tmp_path_factory.mktemp("trained")
    synthesize(folder / "faces", identities=4, images=2, size=SIDE)
    return run_folder(folder / "a-run", data=folder / "faces")


def test_a_run_becomes_a_file_that_serves_without_facescale(capsys, trained: Path, tmp_path: Path):
    dest = tmp_path / "network.onnx"
    code, out, errors = run(capsys, trained, dest, "--normalise", "--json")
    assert (code, errors) == (0, "")
    said = json.loads(out)
    assert (said["run"], said["step"], said["bytes"]) == ("a-run", "12", dest.stat().st_size)
    colours = torch.randint(0, 256, (2, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    for name, pixels in zip(("first.png", "second.png"), colours, strict=True):
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / name)
    command = [sys.executable, "-I", PROGRAM, dest, tmp_path / "first.png", tmp_path / "second.png"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with torch.no_grad():
        first, second = from_run(trained).network((colours.permute(0, 3, 1, 2) - 127.5) / 127.5)
    cosine = functional.cosine_similarity(first, second, dim=0).item()
    assert abs(float(printed) - cosine) < 1e-4  # it prints four digits


def test_what_is_printed_for_people_says_how_near_the_file_is(capsys, tmp_path: Path):
    dest = tmp_path / "network.onnx"
    code, out, _ = run(
        capsys, "facenet_small", dest, "--image-size", str(SIDE), "--precision", "fp16"
    )
    assert code == 0
    assert "first ones, not trained" in out
    assert "cosine distance to torch, 8 of noise  mean " in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no_network", "x.onnx"], 1, "no backbone is called 'no_network'"),
        (["runs/none", "x.onnx"], 1, "there is no folder runs/none"),
        ([".", "x.onnx"], 1, "neither a run folder nor a checkpoint"),
        ([".", "x.onnx", "--image-size", "32"], 2, "are for a backbone given by name"),
        (["facenet_small", "none/x.onnx"], 1, "none is no folder"),
        (["facenet_small", "x.onnx", "--weights", "none.safetensors"], 1, "no such file"),
        (["facenet_small", "x.onnx", "--threads", "0"], 2, "at least 1"),
        (["facenet_small", "x.onnx", "--faces", "none"], 1, "none"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys, monkeypatch, tmp_path: Path, trained: Path, arguments, code, words
):
    monkeypatch.chdir(tmp_path)
    faces = trained.parent / "faces"
    found, out, errors = run(capsys, *(word.format(faces=faces) for word in arguments))
    assert (found, out, errors.count("\n")) == (code, "", 1)
    assert words in errors
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_not_installed_are_named(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, errors = run(capsys, "facenet_small", tmp_path / "x.onnx")
    assert code == 1
    assert errors.startswith("facescale: ")
    assert "pip install 'facescale[export]'" in errors


def test_help_needs_no_torch_and_no_onnx():
    look = (
        "import sys\nfrom cluster import cli\ntry: cli.main(['export', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True)
    assert printed.stdout.splitlines()[-1] == b"[]"
