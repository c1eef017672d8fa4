"""A disk that fills up while a run trains: told in one line, and nothing that was saved is lost."""

import errno
import multiprocessing as mp
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from data_pipeline.synthetic import synthesize
from sharded_fc.tables.disk import File
from tests.trainer.toy_run import Run
from trainer import checkpoint, config, run_folder
from trainer.errors import RunError
from trainer.launch import run_local
from trainer.metrics import HISTORY, read_lines
from trainer.snapshot import read_snapshots

STEPS = 8


def no_room(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def from_step(step: int, meanwhile: Callable[[], None]) -> None:
    """Do something as step `step` begins."""
    from trainer import loop  # where no shapes are checked

    go_on, begun = loop.train_step, [0]

    def train_step(*given: Any, **named: Any) -> Any:
        begun[0] += 1
        if begun[0] == step:
            meanwhile()
        return go_on(*given, **named)

    loop.train_step = train_step


def fill_tables() -> None:
    """From step 5 on no table can be written."""
    from_step(5, lambda: setattr(File, "write", no_room))


def fill_checkpoints() -> None:
    """From step 2 on no checkpoint can be written, from step 5 on again."""
    usual = checkpoint.write_tensors
    from_step(2, lambda: setattr(checkpoint, "write_tensors", no_room))
    from_step(5, lambda: setattr(checkpoint, "write_tensors", usual))


def fill_the_last() -> None:
    """From step 7 on no checkpoint can be written."""
    from_step(7, lambda: setattr(checkpoint, "write_tensors", no_room))


def alone(
    fill: Callable[[], None], run: config.RunConfig, folder: Path, meeting: Path, to: Connection
) -> None:
    """Rank 0 of 1, in a process of its own whose disk fills up."""
    from trainer import loop

    fill()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    try:
        topology = loop.Topology.of_default_group()
        to.send(loop.run_worker(run, topology=topology, folder=folder, attempt=0))
    except RunError as error:
        to.send(str(error))
    os._exit(0)  # as a rank that failed


def trained(fill: Callable[[], None], run: config.RunConfig, folder: Path, meeting: Path) -> str:
    """How such a run ended."""
    context = mp.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=alone, args=(fill, run, folder, meeting, sender))
    process.start()
    told = receiver.recv()
    process.join()
    return told


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full")
    synthesize(path / "faces", identities=11, images=4, size=32, seed=1)
    return path


def read(path: Path, name: str, head: dict[str, Any]) -> config.RunConfig:
    tree = {
        "name": name,
        "steps": STEPS,
        "runs": str(path / "runs"),
        "data": {"path": str(path / "faces"), "image_size": 32},
        "backbone": {"name": "facenet_small", "embedding_dim": 16},
        "head": head,
        "optimizer": {"learning_rate": 0.05},
        "batch": {"micro_batches": 2, "micro_batch_size": 4},
        "every": {"log": 1, "save": 3},
    }
    return config.from_tree(tree, source="test")


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_lines(folder / HISTORY)]


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("rows", ["mapped", "host"])
def test_rows_that_cannot_be_written_end_a_run_in_one_line_and_it_goes_on_to_the_bit(
    faces: Path, tmp_path: Path, rows: str
):
    sampling = {"rate": 0.4, "untouched": "caught_up"}
    through, full = (
        read(faces, f"{rows}-{name}", {"rows": rows, "sampling": sampling}) for name in "ab"
    )
    folder = run_folder.prepare(through)
    assert run_local(through, folder) == "finished"
    kept = run_folder.prepare(full)
    told = trained(fill_tables, full, kept, tmp_path / "meeting")
    assert "\n" not in told
    assert "No space left on device" in told
    assert "start the run again: it continues" in told
    if rows == "mapped":  # the host's memory holds them until the last step's checkpoint
        assert told.startswith(f"rows in {kept / 'rows' / 'rows-0-11-since-0'} cannot be")
        assert saved(kept) == ["step-000000003"]
    assert run_local(full, run_folder.prepare(full)) == "finished"
    assert losses(kept) == losses(folder)


def test_training_goes_on_without_a_checkpoint_and_saves_the_next(faces: Path, tmp_path: Path):
    run = read(faces, "goes-on", {})
    folder = run_folder.prepare(run)
    assert trained(fill_checkpoints, run, folder, tmp_path / "meeting") == "finished"
    assert saved(folder) == ["step-000000006", "step-000000008"]
    assert len(losses(folder)) == STEPS
    (snapshot,), _ = read_snapshots(folder)
    assert snapshot.values["checkpoint_failures_total"] == 1
    assert snapshot.values["checkpoints_total"] == 3
    log = (folder / "logs" / "rank-00000.log").read_text()
    assert "step 3: not saved, training goes on: rank 0 cannot write a checkpoint" in log


def test_a_last_checkpoint_that_cannot_be_written_fails_the_run(faces: Path, tmp_path: Path):
    run = read(faces, "last", {})
    folder = run_folder.prepare(run)
    told = trained(fill_the_last, run, folder, tmp_path / "meeting")
    assert "No space left on device" in told
    assert "make room on the disk of the run folder, then start the run again" in told
    assert saved(folder) == ["step-000000006"]


def save_with_room_for_two(folder: Path, full_rank: int) -> None:
    run = Run(0)
    for step in (1, 2):
        run.save(folder, step, keep=3)
    write = checkpoint.write_rows

    def write_rows(path: Path, *given: Any, **named: Any) -> Any:
        if run.topology.rank == full_rank and len(list(folder.glob("step-*"))) == 2:
            no_room()
        return write(path, *given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "write_rows", write_rows)
        run.save(folder, 3, keep=3)


@pytest.mark.parametrize("full_rank", [0, 1])
def test_older_checkpoints_make_room_for_a_new_one(ranks, tmp_path: Path, full_rank: int):
    ranks(2).run(save_with_room_for_two, tmp_path, full_rank)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-000000003", [])
