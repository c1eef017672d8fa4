"""`facescale data pack`: what its options do, and what it says."""

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from cluster.cli import main


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two people with three pictures each, one of them twice."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "people"
    for person in ("ann", "bob"):
        (folder / person).mkdir(parents=True)
        for number in range(3):
            picture = Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8))
            picture.save(folder / person / f"{number}.png")
    (folder / "ann" / "again.png").write_bytes((folder / "ann" / "0.png").read_bytes())
    return folder


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main(["data", "pack", *map(str, words)])
    out, errors = capsys.readouterr()
    return exit_.value.code, out, errors


def unfinished(folder: Path, *, seed: int) -> None:
    """What a pack leaves that was killed after its first shard."""
    scratch = folder / "packed.partial" / "scratch"
    scratch.mkdir(parents=True)
    options = json.dumps({"source": "other", "seed": seed})
    (scratch / "journal.jsonl").write_text(f"{crc32(options.encode()):08x} {options}\n{{}}\n")


def test_a_repeated_image_is_counted_and_left_out_when_asked(capsys, people, tmp_path):
    code, out, _ = run(capsys, people, tmp_path / "kept", "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 7
    assert json.loads(out)["source"]["duplicates_within_identities"] == 1
    code, out, _ = run(capsys, people, tmp_path / "dropped", "--repeated", "drop", "--json")
    assert code == 0
    assert json.loads(out)["samples"] == 6
    assert json.loads(out)["source"]["duplicates_left_out"] == 1


def test_an_unfinished_pack_of_something_else_is_refused_in_one_line(capsys, people, tmp_path):
    unfinished(tmp_path, seed=3)
    code, out, errors = run(capsys, people, tmp_path / "packed")
    assert (code, out) == (1, "")
    assert errors.count("\n") == 1
    assert "packed.partial holds an unfinished pack of another source" in errors
    code, _, _ = run(capsys, people, tmp_path / "packed", "--restart")
    assert code == 0
    assert not (tmp_path / "packed.partial").exists()


def test_landmarks_are_needed_to_align(capsys, people, tmp_path):
    code, _, errors = run(capsys, people, tmp_path / "packed", "--align", "112")
    assert code == 1
    assert "give a file of landmarks" in errors
