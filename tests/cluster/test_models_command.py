"""`facescale models` and `import-weights` as a user meets them."""

import json
from pathlib import Path

import torch

from tests.cluster.test_cli import one_line, run
from tests.trainer.backbones.arcface_torch import IResNet
from trainer.backbones.table import BACKBONES


def test_the_table_has_a_line_for_each_backbone_under_its_headings(capsys):
    code, out, _ = run(capsys, "models")
    heading, *lines = out.splitlines()
    assert code == 0
    assert heading.split()[:3] == ["name", "parameters", "multiply-adds"]
    assert [line.split()[0] for line in lines] == list(BACKBONES)
    (line,) = (line for line in lines if line.startswith("iresnet50 "))
    figures = "43.59 M 6,309 M 112 x 112 512 " + BACKBONES["iresnet50"].paper
    assert " ".join(line.split()[1:10]) == figures


def test_scripts_get_exact_counts(capsys):
    code, out, _ = run(capsys, "models", "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows["vit_b"]["multiply_adds"] == BACKBONES["vit_b"].multiply_adds
    assert rows["vit_b"]["arguments"]["depth"] == 24


def test_published_weights_become_a_file_for_a_run(capsys, tmp_path: Path):
    torch.manual_seed(0)
    theirs = IResNet((2, 2, 2, 2), 16, last_map=4)
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    dest = tmp_path / "r18.safetensors"
    arguments = ("import-weights", "iresnet18", tmp_path / "backbone.pth", dest)
    code, out, _ = run(capsys, *arguments, "--image-size", "32", "--json")
    assert (code, json.loads(out)["embedding_dim"]) == (0, "16")
    assert dest.exists()
    code, _, errors = run(capsys, *arguments)
    assert (code, "exists" in one_line(errors)) == (1, True)


def test_a_file_that_is_none_is_told_in_one_line(capsys, tmp_path: Path):
    (tmp_path / "backbone.pth").write_text("<html>not found</html>")
    code, _, errors = run(
        capsys, "import-weights", "mbf", tmp_path / "backbone.pth", tmp_path / "out"
    )
    assert code == 1
    assert "cannot be read" in one_line(errors)
