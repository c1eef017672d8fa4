"""Checkpoints: equal to the bit, at any world size and ZeRO stage, and whole or refused."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sharded_fc.margins import CurricularFace
from tests.trainer import toy
from tests.trainer.test_engine import OPTIMIZERS, STAGES, Stage, make
from tests.trainer.test_step import M, share, snapshot
from trainer import checkpoint, manifest
from trainer.errors import RunError
from trainer.step import train_step

CONFIG = {"name": "a-run", "optimizer": {"learning_rate": 0.1}}
DATA = {"bad_samples": {"7": "truncated"}}


PLAIN_HEAD: Mapping[str, Any] = {}
RICH_HEAD: Mapping[str, Any] = {
    "margin": CurricularFace(0.2),
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "sub_centres": 2,
    "dtype": torch.bfloat16,
}
"""A head with a scalar of its margin, other state than momentum, two rows a class, two bytes."""


class Run:
    """Engine and head of this rank, and how to train, save and load them."""

    def __init__(
        self,
        stage: Stage,
        optimizer: str = "sgd",
        kind: type[nn.Module] = toy.Normalised,
        head: Mapping[str, Any] = PLAIN_HEAD,
    ) -> None:
        rates = {"sgd": 0.1, "adamw": 0.01}
        self.engine = make(stage, kind, clip_norm=0.5, **OPTIMIZERS[optimizer])
        self.head = toy.head(**head)
        self.topology = self.engine.topology
        self.rate = rates[optimizer]

    def train(self, steps: range) -> list[float]:
        mine = share(self.topology.rank, self.topology.world_size)
        return [
            train_step(
                self.engine,
                self.head,
                toy.batches(step, mine),
                micro_batches=mine,
                total_micro_batches=M,
                learning_rate=self.rate / (step + 1),
            ).statistics.loss.item()
            for step in steps
        ]

    def save(self, folder: Path, step: int, keep: int = 3) -> Path:
        return checkpoint.save(
            folder,
            step=step,
            samples_seen=step * 16,
            config=CONFIG,
            data=DATA,
            engine=self.engine,
            head=self.head,
            topology=self.topology,
            keep=keep,
        )

    def load(self, path: Path) -> manifest.Manifest:
        return checkpoint.load(path, engine=self.engine, head=self.head, topology=self.topology)

    def state(self) -> dict[str, Any]:
        return snapshot(self.engine, self.head)


def uninterrupted(
    stage: Stage, optimizer: str, folder: Path, head: Mapping[str, Any] = PLAIN_HEAD
) -> tuple[list[float], dict]:
    """Six steps; saving after three must not show."""
    run = Run(stage, optimizer, head=head)
    losses = run.train(range(3))
    run.save(folder, 3)
    return losses + run.train(range(3, 6)), run.state()


def resumed(
    stage: Stage, optimizer: str, folder: Path, head: Mapping[str, Any] = PLAIN_HEAD
) -> tuple[list[float], dict]:
    """Steps three to six from the checkpoint, with fresh objects."""
    run = Run(stage, optimizer, head=head)
    path, refused = checkpoint.newest(folder, topology=run.topology)
    assert path is not None
    assert refused == []
    content = run.load(path)
    assert (content.step, content.samples_seen) == (3, 48)
    assert (content.config, content.data) == (CONFIG, DATA)
    assert content.differences(world_size=run.topology.world_size) == []
    return run.train(range(3, 6)), run.state()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_is_equal_to_the_bit(ranks, tmp_path: Path, stage: Stage, optimizer: str):
    for world in (1, 3):
        folder = tmp_path / str(world)
        through = ranks(world).run(uninterrupted, stage, optimizer, folder)
        again = ranks(world).run(resumed, stage, optimizer, folder)
        for (losses, state), (later, found) in zip(through, again, strict=True):
            assert later == losses[3:]
            torch.testing.assert_close(found, state, rtol=0.0, atol=0.0)


def test_a_head_with_more_to_remember_resumes_equal_to_the_bit(ranks, tmp_path: Path):
    """Its rounding is drawn by step, so a step number that was lost would show."""
    for world in (1, 3):
        folder = tmp_path / str(world)
        through = ranks(world).run(uninterrupted, 0, "sgd", folder, RICH_HEAD)
        again = ranks(world).run(resumed, 0, "sgd", folder, RICH_HEAD)
        for (losses, state), (later, found) in zip(through, again, strict=True):
            assert later == losses[3:]
            assert state["scalars"]["t"] != 0.0
            torch.testing.assert_close(found, state, rtol=0.0, atol=0.0)


def hand_on(folder: Path, come_from: str | None) -> dict[str, Any]:
    """Load what another world size saved, or train two steps; save again."""
    run = Run(0, head=RICH_HEAD)
    if come_from is None:
        run.train(range(2))
    else:
        run.load(folder / come_from / "step-000000002")
    run.save(folder / str(run.topology.world_size), 2)
    return {"rows": toy.rows(run.head), "scalars": run.head.state()}


def test_rows_of_any_kind_move_between_world_sizes_to_the_bit(ranks, tmp_path: Path):
    saved = ranks(2).run(hand_on, tmp_path, None)
    wanted = {index: row for found in saved for index, row in found["rows"].items()}
    assert set(wanted) == set(range(2 * toy.NUM_CLASSES))
    assert {"centre", "mean", "square"} <= set(wanted[0])
    for world, come_from in ((1, "2"), (3, "1")):
        results = ranks(world).run(hand_on, tmp_path, come_from)
        rows = {index: row for found in results for index, row in found["rows"].items()}
        torch.testing.assert_close(rows, wanted, rtol=0.0, atol=0.0)
        for found in results:
            assert found["scalars"] == saved[0]["scalars"]


def load_into(folder: Path, head: Mapping[str, Any]) -> str:
    run = Run(0, head=head)
    with pytest.raises(RunError) as caught:
        run.load(folder / "step-000000003")
    return str(caught.value)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"optimizer": "adamw"}, "no mean, square; load rows saved with the same optimizer"),
        ({"margin": CurricularFace(0.2)}, "no t, which CurricularFace needs"),
        ({"sub_centres": 2}, "sub_centres 1, this one 2"),
    ],
)
def test_another_head_is_refused_with_the_difference(
    ranks, two_checkpoints: Path, head: dict[str, Any], told: str
):
    for message in ranks(2).run(load_into, two_checkpoints, head):
        assert "step-000000003" in message
        assert told in message


def as_written_before(path: Path) -> None:
    """Make a checkpoint one of format 1: no sub-centres in the manifest, no wins in the rows."""
    content = manifest.read(path)
    files = dict(content.files)
    for name in content.partitions:
        rows = load_file(path / name)
        del rows["wins"]
        save_file(rows, path / name)
        files[name] = manifest.facts(path / name)
    head = {key: value for key, value in content.head.items() if key != "sub_centres"}
    (path / manifest.NAME).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "FORMAT", 1)
        manifest.write(path, replace(content, head=head, files=files))


def load_and_train(folder: Path) -> dict[str, Any]:
    run = Run(0)
    path, refused = checkpoint.newest(folder, topology=run.topology)
    assert path is not None
    assert refused == []
    run.load(path)
    run.train(range(6, 7))
    state = run.state()
    for row in state["rows"].values():
        del row["wins"]  # counted from the load on
    return state


def test_a_checkpoint_from_before_sub_centres_continues_to_the_same_bits(
    ranks, two_checkpoints: Path, tmp_path: Path
):
    shutil.copytree(two_checkpoints / "step-000000006", tmp_path / "step-000000006")
    wanted = ranks(2).run(load_and_train, two_checkpoints)
    as_written_before(tmp_path / "step-000000006")
    found = ranks(2).run(load_and_train, tmp_path)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0)


def save_and_step(optimizer: str, folder: Path) -> list[tuple[dict, dict]]:
    """For every ZeRO stage the state that was saved, and that after one more step."""
    states = []
    for stage in STAGES:
        run = Run(stage, optimizer)
        run.train(range(2))
        run.save(folder / str(stage), 2)
        saved = run.state()
        run.train(range(2, 3))
        states.append((saved, run.state()))
    return states


def load_and_step(stage: Stage, optimizer: str, folder: Path) -> list[tuple[dict, dict]]:
    """For the checkpoint of every ZeRO stage the state under this one, and after one more step."""
    states = []
    for saved_stage in STAGES:
        run = Run(stage, optimizer)
        run.load(folder / str(saved_stage) / "step-000000002")
        loaded = run.state()
        run.train(range(2, 3))
        states.append((loaded, run.state()))
    return states


def joined(results: list[list[tuple[dict, dict]]]) -> list[tuple[dict, dict]]:
    """The ranks' states as one: rows of all, the rest of rank 0 (equal on each)."""
    whole = []
    for of_ranks in zip(*results, strict=True):
        pair = []
        for moment in range(2):
            states = [state[moment] for state in of_ranks]
            rows = {index: row for state in states for index, row in state["rows"].items()}
            for state in states:
                shared = {**state, "rows": None}
                torch.testing.assert_close(shared, {**states[0], "rows": None}, rtol=0.0, atol=0.0)
            pair.append({**states[0], "rows": rows})
        whole.append(tuple(pair))
    return whole


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_any_stage_and_world_size_continues_from_any_other(ranks, tmp_path: Path, optimizer: str):
    """Loaded to the bit; a step on another world size differs by rounding.

    Float32 sums in another order: 6e-8 of the largest number, for AdamW relative to each number's
    own gradient, of which the smallest is some 1e-3 of the largest. A step's length is 0.01 to 0.1.
    """
    saved = joined(ranks(2).run(save_and_step, optimizer, tmp_path))
    for stage in STAGES:
        for world in (1, 3):
            loaded = joined(ranks(world).run(load_and_step, stage, optimizer, tmp_path))
            for (before, after), (found, later) in zip(saved, loaded, strict=True):
                torch.testing.assert_close(found, before, rtol=0.0, atol=0.0)
                torch.testing.assert_close(later, after, rtol=0.0, atol=1e-5)


def test_a_fresh_process_resumes_equal_to_the_bit(ranks, tmp_path: Path):
    folder = tmp_path / "checkpoints"
    ((losses, state),) = ranks(1).run(uninterrupted, 2, "adamw", folder)
    program = f"""
import torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://{tmp_path}/rendezvous", rank=0, world_size=1)
from tests.trainer.test_checkpoint import resumed
losses, state = resumed(2, "adamw", Path({str(folder)!r}))
save_file({{"losses": torch.tensor(losses), **state["parameters"], **state["buffers"]}},
          {str(tmp_path / "found")!r})
dist.destroy_process_group()
"""
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=True,
    )
    wanted = {"losses": torch.tensor(losses[3:]), **state["parameters"], **state["buffers"]}
    torch.testing.assert_close(load_file(tmp_path / "found"), wanted, rtol=0.0, atol=0.0)


def save_steps(folder: Path, steps: list[int], keep: int) -> None:
    run = Run(0)
    for step in steps:
        run.train(range(step, step + 1))
        run.save(folder, step, keep)


@pytest.fixture(scope="module")
def two_checkpoints(rank_pools, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    rank_pools(2).run(save_steps, folder, [3, 6], 3)
    return folder


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


FILES = (
    "manifest.json",
    "backbone.safetensors",
    "optimizer.safetensors",
    "head-00000-of-00002.safetensors",
    "head-00001-of-00002.safetensors",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    two_checkpoints: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    assert {path.name for path in (folder / "step-000000006").iterdir()} == set(FILES)
    assert checkpoint.newest(folder) == (folder / "step-000000006", [])
    damage(folder / "step-000000006" / name)
    path, refused = checkpoint.newest(folder)
    assert path == folder / "step-000000003"
    assert len(refused) == 1
    assert str(folder / "step-000000006" / name) in refused[0]


def test_without_a_good_checkpoint_there_is_none(two_checkpoints: Path, tmp_path: Path):
    assert checkpoint.newest(tmp_path / "absent") == (None, [])
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_checkpoints, folder)
    for path in folder.iterdir():
        truncate(path / "backbone.safetensors")
    path, refused = checkpoint.newest(folder)
    assert path is None
    assert len(refused) == 2


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_are_kept(ranks, tmp_path: Path):
    ranks(2).run(save_steps, tmp_path, [1, 2, 5, 11], 2)
    assert names(tmp_path) == ["step-000000005", "step-000000011"]


def test_a_damaged_one_takes_no_good_ones_place(ranks, tmp_path: Path):
    ranks(2).run(save_steps, tmp_path, [1, 2, 3], 3)
    truncate(tmp_path / "step-000000003" / "head-00001-of-00002.safetensors")
    ranks(2).run(save_steps, tmp_path, [4], 3)
    assert names(tmp_path) == ["step-000000001", "step-000000002", "step-000000004"]
    # A later one that is damaged stays until its step is reached, and then is replaced.
    shutil.copytree(tmp_path / "step-000000004", tmp_path / "step-000000009")
    truncate(tmp_path / "step-000000009" / "manifest.json")
    ranks(2).run(save_steps, tmp_path, [6], 1)
    assert names(tmp_path) == ["step-000000006", "step-000000009"]
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-000000006"
    ranks(2).run(save_steps, tmp_path, [9], 1)
    assert names(tmp_path) == ["step-000000009"]
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-000000009", [])


def save_on_a_full_disk(folder: Path, full_rank: int) -> str:
    run = Run(0)
    run.save(folder, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if run.topology.rank == full_rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        run.save(folder, 2, keep=1)
    except RunError as error:
        message = str(error)
    else:
        message = "saved"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if run.topology.rank == 0:  # which clears away; the others do not wait for it
        assert names(folder) == ["step-000000001"]
    run.save(folder, 3, keep=1)
    return message


@pytest.mark.parametrize("full_rank", [0, 1])
def test_a_full_disk_on_one_rank_fails_on_all_and_leaves_what_was(
    ranks, tmp_path: Path, full_rank: int
):
    first, second = ranks(2).run(save_on_a_full_disk, tmp_path, full_rank)
    assert first == second
    assert first.startswith(f"rank {full_rank} cannot write a checkpoint: ")
    assert "File too large" in first
    assert names(tmp_path) == ["step-000000003"]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code under test takes it."""


def killed_at_every_operation(folder: Path) -> int:
    """Save step 2 over step 1 again and again, killed one file operation later each time."""
    run = Run(0)
    for allowed in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        run.save(folder, 1, keep=1)
        if killed_after(allowed, lambda: run.save(folder, 2, keep=1)):
            path, refused = checkpoint.newest(folder)
            assert path is not None
            assert path.name in {"step-000000001", "step-000000002"}
            assert refused == []
            run.save(folder, 3, keep=1)
            assert names(folder) == ["step-000000003"], allowed
        else:
            assert names(folder) == ["step-000000002"]
            return allowed
    raise AssertionError("the save never ends")


def killed_after(allowed: int, action: Callable[[], Any]) -> bool:
    """Run `action`, but raise in its file operation number `allowed`; whether it came so far."""
    operations = ("mkdir", "rename", "fsync", "unlink", "rmdir")
    originals = {name: getattr(os, name) for name in operations}
    left = allowed

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return original(*args, **keywords)

        return call

    for name, original in originals.items():
        setattr(os, name, counted(original))
    try:
        action()
    except Killed:
        return True
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
    return False


def test_a_save_killed_at_any_moment_leaves_a_good_checkpoint(ranks, tmp_path: Path):
    (operations,) = ranks(1).run(killed_at_every_operation, tmp_path / "checkpoints")
    assert operations > 10  # directories, four files, renames, and the old one's removal


def refusals(folder: Path) -> list[str]:
    """What loading into something else says."""
    Run(0).save(folder, 1)
    path = folder / "step-000000001"
    other = Run(0)
    other.head = toy.head(num_classes=9)
    messages = []
    for run in (Run(0, "adamw"), Run(0, kind=toy.Plain), Run(0, kind=toy.Wide), other):
        with pytest.raises(RunError) as caught:
            run.load(path)
        messages.append(str(caught.value))
    return messages


def test_what_does_not_fit_is_refused_with_a_reason(ranks, tmp_path: Path):
    for optimizer, backbone, width, head in ranks(2).run(refusals, tmp_path):
        assert "has the state of sgd, the run file names adamw" in optimizer
        assert "of another backbone" in backbone
        assert "0.weight has shape (4, 3, 3, 3) in the checkpoint and (6, 3, 3, 3)" in width
        assert "num_classes 7, this one 9" in head


def test_a_checkpoint_is_plain_safetensors(two_checkpoints: Path):
    path = two_checkpoints / "step-000000006"
    backbone = load_file(path / "backbone.safetensors")
    net = toy.network(toy.Normalised)
    net.load_state_dict(backbone)
    optimizer = load_file(path / "optimizer.safetensors")
    assert {f"momentum_buffer/{name}" for name, _ in net.named_parameters()} == set(optimizer)
    content = manifest.read(path)
    total = 0
    for name, (start, stop) in content.partitions.items():
        rows = load_file(path / name)
        assert {key: tuple(value.shape) for key, value in rows.items()} == {
            "centre": (stop - start, toy.EMBEDDING_DIM),
            "momentum": (stop - start, toy.EMBEDDING_DIM),
            "wins": (stop - start, 1),
        }
        total += stop - start
    assert total == toy.NUM_CLASSES
