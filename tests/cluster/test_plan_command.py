"""`facescale plan` as a user meets it: a table, JSON, and one line for what is wrong."""

import json
from pathlib import Path

import pytest

from cluster import cli
from data_pipeline.synthetic import synthesize
from tests.trainer.planning.numbers import constants, machine
from trainer.planning import calibrate
from trainer.planning.constants import load, save
from trainer.planning.devices import device


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    code = caught.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


SMALL = ("backbone.name=facenet_small", "data.image_size=32")
FAR = ("--identities", "100m", "--gpus", "1024", "--device", "h100")


def test_a_cluster_that_does_not_exist_is_planned_as_a_table(capsys):
    code, out, errors = run(capsys, *FAR, *SMALL)
    assert (code, errors) == (0, "")
    assert out.startswith("100,000,000 identities, 2,000,000,000 images, 1,024 x h100\n")
    assert out.splitlines()[-1].startswith("Recommended: ")


def test_the_same_as_json_is_one_object(capsys):
    code, out, _ = run(capsys, *FAR, "--images", "1b", "--epochs", "5", *SMALL, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["identities"], found["images"], found["ranks"]) == (10**8, 10**9, 1024)
    assert not found["machine"]["measured"]
    kinds = ["full", "sampled", "host", "mapped", "pool"]
    assert [each["kind"] for each in found["candidates"]] == kinds


def test_a_run_file_is_planned_with_its_own_dataset_steps_and_workers(capsys, tmp_path: Path):
    synthesize(tmp_path / "faces", identities=6, images=2, size=32)
    (tmp_path / "run.yaml").write_text(
        "name: small\nsteps: 30\ndata: {path: faces, image_size: 32}\n"
        "backbone: {name: facenet_small}\n"
        "batch: {micro_batches: 2, micro_batch_size: 4}\ncluster: {workers: 2}\n"
    )
    code, out, _ = run(capsys, tmp_path / "run.yaml", "--device", "a100", "--json")
    found = json.loads(out)
    assert (code, found["identities"], found["images"], found["ranks"]) == (0, 6, 12, 2)
    assert found["candidates"][0]["epochs"] == 30 * 8 / 12
    code, out, _ = run(
        capsys, tmp_path / "run.yaml", "steps=60", "--device", "a100", "--identities", "9", "--json"
    )
    assert json.loads(out)["identities"] == 9
    assert code == 0


def test_this_machines_numbers_are_read_from_where_they_are_kept(capsys, tmp_path: Path):
    save(device("v100"), tmp_path / "mine.json")
    code, out, _ = run(
        capsys, "--identities", "1m", "--constants", tmp_path / "mine.json", *SMALL, "--json"
    )
    assert (code, json.loads(out)["machine"]["name"]) == (0, "v100")


def test_a_calibration_is_kept_beside_earlier_ones_and_planned_with(
    capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    asked = []

    def measured(run, setups, *, minutes):
        asked.append((run.backbone.name, setups, minutes))
        return machine(constants(ranks=setups[0][0], threads=setups[0][1]))

    monkeypatch.setattr(calibrate, "calibrate", measured)
    monkeypatch.setattr(calibrate.os, "sched_getaffinity", lambda _: {0, 1})
    path = tmp_path / "mine.json"
    save(machine(constants(ranks=4)), path)
    code, out, errors = run(
        capsys, "--calibrate", "--gpus", "2", "--identities", "1m", "--constants", path, *SMALL
    )
    assert (code, asked) == (0, [("facenet_small", [(2, 1)], 1.0)])
    assert errors.startswith("measuring this machine")
    assert out.splitlines()[-1].startswith("Recommended: ")
    assert [each.ranks for each in load(path).setups] == [2, 4]
    code, out, _ = run(
        capsys, "--calibrate", "--minutes", "2.5", "--constants", path, "--json", *SMALL
    )
    assert (code, json.loads(out)["constants"]) == (0, str(path))
    assert asked[1][1:] == ([(1, 2), (2, 1)], 2.5)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--device", "h100"), 2, "--identities"),
        (("--calibrate", "--minutes", "-1"), 2, "--minutes"),
        (("--identities", "many", "--device", "h100"), 2, "--identities 'many'"),
        (("--identities", "1m", "--device", "abacus"), 1, "choose one of h200"),
        (("--identities", "1m", "--device", "h100", "--rate", "2"), 2, "--rate 2"),
        (("--identities", "1m", "--device", "h100", "--gpus", "0"), 2, "--gpus 0"),
        (("--identities", "1m", "--device", "h100", "--calibrate"), 2, "--device"),
        (("--identities", "1m", "--device", "h100", "head.margn=1"), 2, "head.margn"),
        (("missing.yaml", "--device", "h100"), 2, "missing.yaml"),
        (("--identities", "5", "--gpus", "8", "--device", "h100"), 1, "use fewer ranks"),
        (("--identities", "1m", "--constants", "nowhere.json"), 1, "--calibrate"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, arguments, code: int, words: str):
    found, out, errors = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert errors.count("\n") == 1
    assert errors.startswith("facescale: ")
    assert words in errors
