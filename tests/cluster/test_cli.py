"""The command line as a user meets it: results, and one clear line for what is wrong."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cluster import cli
from data_pipeline.synthetic import synthesize


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


def one_line(errors: str) -> str:
    assert errors.count("\n") == 1, errors
    assert errors.startswith("facescale: ")
    return errors


def picture(colour: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 90, 40)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for person in ("ann", "bob"):
        (tmp_path / "people" / person).mkdir(parents=True)
        (tmp_path / "people" / person / "0.jpg").write_bytes(picture(len(person)))
    return tmp_path / "people"


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "packed"
    synthesize(path, identities=4, images=2, size=32)
    return path


def write_run(folder: Path, data: Path, text: str = "") -> Path:
    path = folder / "run.yaml"
    path.write_text(f"name: first\nsteps: 2\ndata: {{path: {data}, image_size: 32}}\n{text}")
    return path


def test_packing_one_image_an_identity_works_and_says_so(capsys, people: Path, tmp_path: Path):
    code, out, _ = run(capsys, "data", "pack", people, tmp_path / "packed", "--json")
    assert code == 0
    assert json.loads(out)["identities_with_one_image"] == 2
    code, out, _ = run(capsys, "data", "info", tmp_path / "packed", "--verify")
    assert code == 0
    assert "identities" in out


def test_an_existing_destination_is_refused_and_stays(capsys, people: Path, tmp_path: Path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "mine").touch()
    code, _, errors = run(capsys, "data", "pack", people, tmp_path / "packed")
    assert code == 1
    assert "packed" in one_line(errors)
    assert (tmp_path / "packed" / "mine").exists()


def test_a_missing_and_an_empty_source_are_refused(capsys, tmp_path: Path):
    code, _, errors = run(capsys, "data", "pack", tmp_path / "nowhere", tmp_path / "packed")
    assert (code, "does not exist" in one_line(errors)) == (1, True)
    (tmp_path / "empty").mkdir()
    code, _, errors = run(capsys, "data", "pack", tmp_path / "empty", tmp_path / "packed")
    assert (code, "holds no images" in one_line(errors)) == (1, True)
    assert not (tmp_path / "packed").exists()


def test_unreadable_images_fail_the_pack_and_are_named(capsys, people: Path, tmp_path: Path):
    (people / "ann" / "0.jpg").write_bytes(b"no picture")
    code, _, errors = run(capsys, "data", "pack", people, tmp_path / "packed")
    assert code == 1
    assert "ann/0.jpg" in one_line(errors)
    assert not (tmp_path / "packed").exists()


def test_a_truncated_shard_is_named_before_anything_starts(capsys, faces: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in faces.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tar = next(broken.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-2000])
    code, _, errors = run(capsys, "data", "info", broken)
    assert (code, tar.name in one_line(errors)) == (1, True)


def test_a_label_outside_the_range_is_told(capsys, faces: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in faces.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    index = json.loads((broken / "index.json").read_text())
    index["num_identities"] = 3
    (broken / "index.json").write_text(json.dumps(index))
    code, _, errors = run(capsys, "data", "info", broken)
    assert (code, "label" in one_line(errors)) == (1, True)


def test_made_up_people_are_packed_as_a_training_and_as_a_verification_set(capsys, tmp_path: Path):
    size = ("--identities", "20", "--images", "2", "--size", "32", "--json")
    code, out, _ = run(capsys, "data", "synth", tmp_path / "train", *size)
    assert (code, json.loads(out)["samples"]) == (0, 40)
    code, out, _ = run(capsys, "data", "synth", tmp_path / "pairs", *size, "--pairs", "20")
    assert (code, json.loads(out)["pairs"]) == (0, 20)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stpes: 3", "stpes: Unexpected keyword argument"),
        ("head: {scale: -1}", "head.scale: Input should be greater than 0"),
        ("batch: {micro_batches: 1}\ncluster: {workers: 2}", "cluster.workers is 2"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "submit"])
def test_a_wrong_run_file_is_usage_and_starts_nothing(
    capsys, faces: Path, tmp_path: Path, verb: str, text: str, told: str
):
    code, _, errors = run(capsys, verb, write_run(tmp_path, faces, text))
    assert (code, told in one_line(errors)) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["train", "submit"])
def test_a_run_name_is_never_a_path(capsys, faces: Path, tmp_path: Path, verb: str):
    code, _, errors = run(capsys, verb, write_run(tmp_path, faces), "name=../evil")
    assert (code, "name: String should match" in one_line(errors)) == (2, True)
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "wait"])
@pytest.mark.parametrize("name", ["../evil", "unknown"])
def test_a_job_that_does_not_exist_is_told(capsys, tmp_path: Path, verb: str, name: str):
    code, _, errors = run(capsys, verb, name, "--runs", tmp_path)
    assert code == 2
    one_line(errors)


def test_verify_says_what_is_missing(capsys, faces: Path, tmp_path: Path):
    code, _, errors = run(capsys, "verify", tmp_path / "no-run", faces)
    assert code != 0
    one_line(errors)
    code, _, errors = run(capsys, "report", tmp_path)
    assert (code, "not a run folder" in one_line(errors)) == (1, True)


def test_models_are_printed_for_people_and_for_scripts(capsys):
    code, out, _ = run(capsys, "models")
    assert (code, "arXiv:1910.04985" in out) == (0, True)
    code, out, _ = run(capsys, "models", "--json")
    assert json.loads(out)["vargfacenet"]["parameters"] == 5_198_292


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom cluster import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'ray', 'deepspeed', 'pydantic', 'nvidia'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
