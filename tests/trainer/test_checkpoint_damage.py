"""Checkpoints that were damaged, cut short or do not fit: whole or refused by name."""

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainer import toy
from tests.trainer.toy_run import Run, save_steps
from trainer import checkpoint, manifest
from trainer.errors import RunError


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
