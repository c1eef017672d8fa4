"""Runs whose head keeps its rows in host memory or in files: the run file, checkpoints, a kill."""

import multiprocessing as mp
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.presets import PRESETS
from data_pipeline.synthetic import synthesize
from sharded_fc import ShardedHead
from sharded_fc.margins import CosFace
from sharded_fc.outside import Outside
from sharded_fc.sampling import Sampling
from tests.trainer import toy
from tests.trainer.toy_run import Run
from trainer import checkpoint, config, manifest, run_folder
from trainer.data import make_order
from trainer.errors import RunError, RunFileError
from trainer.launch import run_local
from trainer.metrics import HISTORY, read_lines
from trainer.rows_outside import StepLabels, rows_outside

IDENTITIES = 11
SAMPLING = {"rate": 0.4, "correction": "logq", "untouched": "caught_up"}


def tree(path: Path, head: dict[str, Any], name: str = "outside") -> dict[str, Any]:
    return {
        "name": name,
        "steps": 8,
        "runs": str(path / "runs"),
        "data": {"path": str(path / "faces"), "image_size": 32},
        "backbone": {"name": "facenet_small", "embedding_dim": 16},
        "head": {"storage": "bf16", "sampling": SAMPLING, **head},
        "optimizer": {"learning_rate": 0.05},
        "batch": {"micro_batches": 2, "micro_batch_size": 4},
        "every": {"log": 1, "save": 3},
    }


def read(given: dict[str, Any]) -> config.RunConfig:
    return config.from_tree(given, source="test")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside")
    synthesize(path / "faces", identities=IDENTITIES, images=4, size=32, seed=1)
    return path


def test_rows_lie_in_the_run_folder_unless_another_is_named(tmp_path: Path):
    assert rows_outside(read(tree(tmp_path, {}))) is None
    unnamed = rows_outside(read(tree(tmp_path, {"rows": "mapped"})))
    assert unnamed == Outside(kept_in="mapped", folder=tmp_path / "runs" / "outside" / "rows")
    named = read(tree(tmp_path, {"rows": "host", "rows_folder": "fast"}))
    found = rows_outside(config.absolute(named, tmp_path / "there"))
    # A folder of each run's own, so that two runs may name the same disk.
    assert found == Outside(kept_in="host", folder=tmp_path / "there" / "fast" / "outside")


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"rows": "mapped", "sampling": None}, "add head.sampling, or keep rows: device"),
        (
            {"rows": "host", "sampling": {"rate": 0.4, "hard_share": 0.1}},
            "not known a step ahead.*use hard_share: 0, or rows: device",
        ),
        ({"rows_folder": "fast"}, "rows_folder is for rows: host or mapped"),
        ({"rows": "disk"}, "head.rows"),
    ],
)
def test_rows_that_cannot_be_kept_so_are_refused_with_what_to_change(tmp_path, head, told):
    with pytest.raises(RunFileError, match=told):
        read(tree(tmp_path, head))


@pytest.mark.parametrize("order", ["plan", "pairs"])
def test_a_steps_labels_are_those_its_batches_will_have(faces: Path, order: str):
    given = tree(faces, {})
    given["data"] |= {} if order == "plan" else {"order": {"name": order}}
    run, dataset = read(given), Dataset.open(faces / "faces")
    labels = StepLabels(make_order(run, dataset), dataset)
    batches = Loader(
        dataset,
        make_order(run, dataset),
        range(2),
        image_size=32,
        augmentation=PRESETS["none"],
        start_step=3,
        quarantine={},
        bad_sample_budget=0,
    )
    try:
        for step in range(3, 15):  # over the end of an epoch
            label = torch.cat([batch.label for batch in next(batches).batches])
            assert labels.of_step(step).sort().values.tolist() == label.sort().values.tolist()
    finally:
        batches.close()


def train_until_killed(run: config.RunConfig, folder: Path, meeting: Path, step: int) -> None:
    """Rank 0 of 1, in a process of its own, killed as step `step` begins."""
    from trainer import loop  # where no shapes are checked

    go_on = loop.train_step

    def train_step(*given: Any, **named: Any) -> Any:
        nonlocal step
        step -= 1
        if step < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return go_on(*given, **named)

    loop.train_step = train_step
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    topology = loop.Topology.of_default_group()
    loop.run_worker(run, topology=topology, folder=folder, attempt=0)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_lines(folder / HISTORY)]


def test_a_killed_run_goes_on_to_the_bit_where_its_checkpoint_was(faces: Path, tmp_path: Path):
    through, killed = (read(tree(faces, {"rows": "mapped"}, name)) for name in ("a", "b"))
    folders = [run_folder.prepare(run) for run in (through, killed)]
    assert run_local(through, folders[0]) == "finished"
    process = mp.get_context("spawn").Process(
        target=train_until_killed, args=(killed, folders[1], tmp_path / "meeting", 5)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in (folders[1] / "checkpoints").iterdir()] == ["step-000000003"]
    assert run_local(killed, run_folder.prepare(killed)) == "finished"
    assert len(losses(folders[0])) == 8
    assert losses(folders[1]) == losses(folders[0])
    tables = [list((folder / "rows").iterdir()) for folder in folders]
    assert [[path.name for path in found] for found in tables] == [["rows-0-11-since-0"]] * 2
    assert (tables[0][0] / "rows").read_bytes() == (tables[1][0] / "rows").read_bytes()


def outside_run(folder: Path, kind: Any, untouched: Any) -> Run:
    """A toy's run whose rows nobody has touched yet."""
    run = Run(0)
    run.head = ShardedHead(
        toy.NUM_CLASSES,
        toy.EMBEDDING_DIM,
        margin=CosFace(0.2),
        scale=8.0,
        learning_rate=0.1,
        weight_decay=1e-2,
        sampling=Sampling(rate=0.5, untouched=untouched),
        outside=None if kind == "device" else Outside(kept_in=kind, folder=folder / "rows"),
    )
    return run


def load_first_rows(run: Run) -> None:
    """Centres of length about 2, so that a step does not turn them far."""
    rows = torch.zeros(toy.NUM_CLASSES, toy.EMBEDDING_DIM)
    run.head.load([(0, {"centre": toy.centres(), "momentum": rows})], run.head.state())


def in_turn(
    folder: Path, steps: range, kind: str, untouched: str, keep: int = 2
) -> tuple[list[float], dict[str, Any]]:
    """Go on from the newest checkpoint, if any; save after each step."""
    run = outside_run(folder, kind, untouched)
    path, refused = checkpoint.newest(folder, topology=run.topology)
    assert refused == []
    if path is None:
        load_first_rows(run)
    else:
        assert run.load(path).step == steps.start
    found = []
    for step in steps:
        found += run.train(range(step, step + 1))
        run.save(folder, step + 1, keep)
    state = run.state()
    run.head.close()
    return found, state


@pytest.mark.parametrize("kind", ["host", "mapped"])
def test_a_run_of_rows_outside_goes_through_two_ranks_one_and_three(ranks, tmp_path, kind):
    """Losses of rows on the device in one process; sums in another order differ by 1e-6."""
    ((expected, _),) = ranks(1).run(in_turn, tmp_path / "device", range(9), "device", "frozen")
    found = []
    for world, steps in ((2, range(3)), (1, range(3, 6)), (3, range(6, 9))):
        results = ranks(world).run(in_turn, tmp_path / kind, steps, kind, "frozen")
        found += results[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    contents = [manifest.read(path) for path in sorted((tmp_path / kind).glob("step-*"))]
    assert [content.step for content in contents] == [8, 9]
    names = {"rows-0-3-since-6", "rows-3-5-since-6", "rows-5-7-since-6"}
    assert {path.name for path in (tmp_path / kind / "rows").iterdir()} == names
    for content in contents:
        assert set(content.tables) == names
        assert content.partitions == {}


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_an_older_checkpoint_is_used_where_the_newest_is_damaged(ranks, tmp_path, untouched):
    for name in ("through", "again"):
        ((expected, state),) = ranks(1).run(in_turn, tmp_path / name, range(4), "mapped", untouched)
    damaged = tmp_path / "again" / "step-000000004" / "backbone.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    ((losses, found),) = ranks(1).run(load_older, tmp_path / "again", "mapped", untouched)
    assert losses == expected[3:]
    torch.testing.assert_close(found, state, rtol=0.0, atol=0.0)


def load_older(folder: Path, kind: str, untouched: str) -> tuple[list[float], dict[str, Any]]:
    run = outside_run(folder, kind, untouched)
    path, refused = checkpoint.newest(folder, topology=run.topology)
    assert len(refused) == 1
    assert path is not None
    assert run.load(path).step == 3
    losses = run.train(range(3, 4))
    run.save(folder, 4)
    state = run.state()
    run.head.close()
    return losses, state


def refused_by(folder: Path, kind: str) -> str:
    run = outside_run(folder, kind, "frozen")
    try:
        with pytest.raises(RunError) as caught:
            run.load(folder / "step-000000002")
    finally:
        run.head.close()
    return str(caught.value)


def test_tables_that_do_not_go_with_the_run_are_refused_by_name(ranks, tmp_path):
    ranks(1).run(in_turn, tmp_path, range(2), "mapped", "frozen")
    assert "continue with the head.rows" in ranks(1).run(refused_by, tmp_path, "device")[0]
    table = tmp_path / "rows" / "rows-0-7-since-0"
    table.rename(tmp_path / "elsewhere")
    assert f"{table} is missing" in ranks(1).run(refused_by, tmp_path, "host")[0]
