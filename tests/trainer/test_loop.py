"""A short run with much of what a head can have, from a run file to its run folder."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_pipeline.synthetic import synthesize
from tests.trainer import toy
from trainer import build, config, run_folder
from trainer.errors import RunError
from trainer.launch import run_local
from trainer.metrics import HISTORY, read_lines
from trainer.series import BY_NAME, HEAD_STATISTICS
from trainer.snapshot import read_snapshots

IDENTITIES = 9
HEAD = {
    "margin": {"name": "curricularface", "margin_rad": 0.2},
    "class_margins": {"highest": 0.3, "lowest": 0.1},
    "scale": 16.0,
    "sub_centres": 2,
    "optimizer": "adamw",
    "learning_rate_ratio": 0.1,
    "learning_rate_ratios": [[0, 1, 0.0]],
    "storage": "bf16",
    "conflict_cosine": -0.5,
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loop") / "faces"
    synthesize(path, identities=IDENTITIES, images=3, size=32, seed=1)
    return path


def tree(faces: Path, head: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "short",
        "steps": 4,
        "runs": str(faces.parent / "runs"),
        "data": {"path": str(faces), "image_size": 32},
        "backbone": {"name": "facenet_small", "embedding_dim": 16},
        "head": head,
        "optimizer": {"learning_rate": 0.05},
        "batch": {"micro_batches": 2, "micro_batch_size": 4},
        "every": {"log": 2, "save": 4},
        "cluster": {"workers": 2},
    }


@pytest.fixture(scope="module")
def finished(faces: Path) -> Path:
    run = config.from_tree(tree(faces, HEAD), source="test")
    folder = run_folder.prepare(run)
    assert run_local(run, folder) == "finished"
    return folder


def test_every_step_tells_what_the_head_measured_and_log_intervals_the_margins_scalars(
    finished: Path,
):
    records = list(read_lines(finished / HISTORY))
    assert len(records) == 4
    assert all(isinstance(record[name], float) for record in records for name in HEAD_STATISTICS)
    assert [sorted(record["margin"]) for record in records] == [[], ["t"], [], ["t"]]
    content = json.loads((finished / "checkpoints/step-000000004/manifest.json").read_text())
    assert content["head"]["t"] == records[-1]["margin"]["t"] != 0.0


def test_the_end_of_a_run_tells_of_its_centres_and_lists_conflicts(finished: Path):
    (snapshot, _), refused = read_snapshots(finished)
    assert refused == 0
    lengths = dict(snapshot.samples(BY_NAME["centre_length"]))
    assert 0 < lengths[("shortest",)] <= lengths[("mean",)] <= lengths[("longest",)]
    # 32 faces in four steps, two rows a class: some rows were nearest to none, but not all
    assert 0.0 < snapshot.values["never_seen_ratio"] < 1.0
    with (finished / run_folder.CONFLICTS).open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["class_a", "class_b", "cosine"]
    cosines = [float(cosine) for _, _, cosine in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert 0 < len(rows) <= IDENTITIES * (IDENTITIES - 1) // 2


def test_rows_are_saved_as_they_are_stored_and_frozen_ones_never_moved(finished: Path):
    files = sorted((finished / "checkpoints/step-000000004").glob("head-*"))
    parts = [load_file(file) for file in files]
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert rows["centre"].shape == (2 * IDENTITIES, 16)
    assert rows["centre"].dtype == rows["mean"].dtype == torch.bfloat16
    moved = rows["mean"].ne(0).any(1)
    assert moved.tolist() == [False, False] + [True] * (2 * IDENTITIES - 2)


def refused(run: dict[str, Any]) -> str:
    with pytest.raises(RunError) as caught:
        build.build(config.from_tree(run, source="test"), toy.topology())
    return str(caught.value)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"margin": {"name": "softmax"}}, r"head: PlainSoftmax with scale 64\.0"),
        ({"learning_rate_ratios": [[0, 10, 0.5]]}, r"head: learning_rate_ratios has \[0, 10\)"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "head: nesterov with momentum 0"),
        (
            {"margin": {"name": "elastic_cosface", "margin": 0.1}},
            r"head\.margin: ElasticCosFace margin 0\.1",
        ),
    ],
)
def test_a_head_that_cannot_be_is_refused_by_every_rank(
    ranks, faces: Path, head: dict[str, Any], told: str
):
    for message in ranks(2).run(refused, tree(faces, head)):
        assert re.search(told, message), message
