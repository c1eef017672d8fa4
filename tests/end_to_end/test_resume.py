"""Runs that were killed, stopped and resized, against one that nothing happened to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.synthetic import SyntheticSource, synthesize

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FACESCALE = Path(sys.executable).parent / "facescale"
STEPS = 12
EXACT = ("loss", "samples", "learning_rate", "target_cosine", "gradient_norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    synthesize(path / "faces", identities=14, images=3, size=48, seed=1)
    unseen = SyntheticSource(identities=12, images=3, size=48, seed=1, first_identity=100)
    pack_drawn_pairs(unseen, path / "pairs", num_pairs=40, folds=2)
    return path


def run_file(folder: Path, name: str, **changes: object) -> Path:
    tree = {
        "name": name,
        "steps": STEPS,
        "data": {"path": "faces", "image_size": 32, "augment": {"brightness": 0.2, "crop": 0.1}},
        "backbone": {"name": "mobilefacenet", "embedding_dim": 16},
        "head": {"scale": 16.0},
        "optimizer": {"learning_rate": 0.05},
        "batch": {"micro_batches": 3, "micro_batch_size": 4},
        "engine": {"zero_stage": 1},
        "verify": [{"name": "unseen", "path": "pairs"}],
        "every": {"log": 1, "save": 4, "evaluate": 6},
        "cluster": {"workers": 2},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


def train(path: Path, *changes: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(FACESCALE), "train", str(path), *changes, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> int:
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 1, 5), errors
    return process.returncode


def history(folder: Path, name: str) -> list[dict]:
    path = folder / "runs" / name / "metrics" / "history.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def evaluations(folder: Path, name: str) -> list[dict]:
    path = folder / "runs" / name / "metrics" / "evaluations.jsonl"
    return [
        {k: v for k, v in json.loads(line).items() if k != "time"}
        for line in path.read_text().splitlines()
    ]


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    """The pids of the rank processes: children of ours that multiprocessing spawned."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process.pid and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def straight(folder: Path) -> list[dict]:
    """The history of a run of two ranks that nothing happened to."""
    assert finish(train(run_file(folder, "straight"))) == 0
    return history(folder, "straight")


def assert_equal_to_the_bit(folder: Path, name: str, straight: list[dict]) -> None:
    """Losses, samples, verification scores, and all of the last checkpoint, buffers too."""
    again = history(folder, name)
    assert [line["step"] for line in again] == list(range(1, STEPS + 1))
    for before, after in zip(straight, again, strict=True):
        assert {k: before[k] for k in EXACT} == {k: after[k] for k in EXACT}
    assert evaluations(folder, name) == evaluations(folder, "straight")
    files = sorted(last_checkpoint(folder, "straight").glob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        assert file.read_bytes() == (last_checkpoint(folder, name) / file.name).read_bytes()


def last_checkpoint(folder: Path, name: str) -> Path:
    return folder / "runs" / name / "checkpoints" / f"step-{STEPS:09d}"


def stop_after(folder: Path, path: Path, step: int) -> int:
    """Train until some step after `step` is done, ask to stop; the step it stopped at."""
    process = train(path)
    wait_for(lambda: len(history(folder, path.stem)) >= step, process)
    process.send_signal(signal.SIGTERM)
    assert finish(process) == 5
    stopped_at = history(folder, path.stem)[-1]["step"]
    assert step <= stopped_at < STEPS
    assert (folder / f"runs/{path.stem}/checkpoints/step-{stopped_at:09d}").is_dir()
    return stopped_at


def test_a_killed_run_continues_bit_for_bit(folder: Path, straight: list[dict]):
    path = run_file(folder, "killed")
    process = train(path)
    wait_for(lambda: len(history(folder, "killed")) >= 6, process)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    assert finish(process) == 1
    assert finish(train(path)) == 0
    assert_equal_to_the_bit(folder, "killed", straight)


def test_a_run_stopped_at_an_unscheduled_step_continues_bit_for_bit(
    folder: Path, straight: list[dict]
):
    path = run_file(folder, "stopped", every={"log": 1, "save": 100, "evaluate": 6})
    stop_after(folder, path, 5)
    assert finish(train(path)) == 0
    assert_equal_to_the_bit(folder, "stopped", straight)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_saved_on_two_ranks_continues_on_one_and_on_three(
    folder: Path, straight: list[dict], workers: int
):
    path = run_file(folder, f"resized-{workers}")
    stop_after(folder, path, 5)
    assert finish(train(path, f"cluster.workers={workers}", "engine.zero_stage=0")) == 0

    again = history(folder, path.stem)
    assert [line["step"] for line in again] == list(range(1, STEPS + 1))
    for before, after in zip(straight, again, strict=True):
        assert before["samples"] == after["samples"]
        # float32: other orders of summation over ranks, grown over a few steps of training
        assert after["loss"] == pytest.approx(before["loss"], rel=2e-3)
    ours, theirs = (
        load_file(last_checkpoint(folder, name) / "backbone.safetensors")
        for name in (path.stem, "straight")
    )
    for name, tensor in theirs.items():  # parameters and running statistics
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=2e-3)
    for mine, other in zip(
        evaluations(folder, path.stem), evaluations(folder, "straight"), strict=True
    ):
        assert mine["auc"] == pytest.approx(other["auc"], abs=0.02)
