"""Resumed runs: equal to the bit, at any world size and ZeRO stage, in any process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sharded_fc.margins import CurricularFace
from tests.trainer import toy
from tests.trainer.test_engine import STAGES, Stage
from tests.trainer.toy_run import CONFIG, DATA, PLAIN_HEAD, RICH_HEAD, Run
from trainer import checkpoint, manifest
from trainer.errors import RunError


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
