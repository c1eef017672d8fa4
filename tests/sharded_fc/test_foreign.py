"""Heads of insightface's arcface_torch become blocks; a bad file becomes one line."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sharded_fc import foreign, foreign_reader, limited, limited_child
from sharded_fc.foreign import insightface_rows
from sharded_fc.partition import bounds

NUM_CLASSES, DIM = 11, 5
CENTRE = torch.arange(NUM_CLASSES * DIM, dtype=torch.float32).view(NUM_CLASSES, DIM)
MOMENTUM = -CENTRE


def save_checkpoints(folder, *, world, dtype=torch.float32, optimizer=True):
    """As arcface_torch's train_v2.py writes them: backbone, head, optimizer, schedule."""
    for rank, (start, stop) in enumerate(bounds(NUM_CLASSES, world)):
        backbone = nn.Linear(3, DIM)
        weight = nn.Parameter(CENTRE[start:stop].to(dtype))
        sgd = torch.optim.SGD(
            [{"params": backbone.parameters()}, {"params": [weight]}], lr=0.0, momentum=0.9
        )
        for parameter in (*backbone.parameters(), weight):
            parameter.grad = torch.zeros_like(parameter)
        weight.grad = MOMENTUM[start:stop].to(dtype)
        sgd.step()
        checkpoint = {
            "epoch": 1,
            "global_step": 7,
            "state_dict_backbone": backbone.state_dict(),
            "state_dict_softmax_fc": {"weight": weight.data},
            "state_lr_scheduler": {"base_lrs": [0.1, 0.1], "last_epoch": 7},
        }
        if optimizer:
            checkpoint["state_optimizer"] = sgd.state_dict()
        torch.save(checkpoint, folder / f"checkpoint_gpu_{rank}.pt")


def save_bare(folder, *, world, momentum=True, zipped=True):
    for rank, (start, stop) in enumerate(bounds(NUM_CLASSES, world)):
        tensors = {"weight": CENTRE[start:stop]}
        if momentum:
            tensors["weight_mom"] = MOMENTUM[start:stop]
        for name, tensor in tensors.items():
            path = folder / f"rank_{rank}_softmax_{name}.pt"
            torch.save(tensor.clone(), path, _use_new_zipfile_serialization=zipped)


def read(folder, *, num_classes=NUM_CLASSES, partition=None, state_widths=None, block=65536):
    partition = range(num_classes) if partition is None else partition
    state_widths = {"momentum": DIM} if state_widths is None else state_widths
    return list(
        insightface_rows(
            folder,
            num_classes=num_classes,
            partition=partition,
            state_widths=state_widths,
            block=block,
        )
    )


def ask_here(_reader, files, folder):
    return limited_child.answer(foreign_reader.read, files, folder)


@pytest.fixture
def in_process(monkeypatch):
    """Reads without the limited process, whose start takes seconds."""
    monkeypatch.setattr(foreign, "ask", ask_here)


def joined(blocks, name):
    return torch.cat([tensors[name] for _, tensors in blocks])


def firsts(blocks):
    return [first for first, _ in blocks]


def test_checkpoints_of_three_ranks_give_centres_and_momentum_in_order(tmp_path, in_process):
    save_checkpoints(tmp_path, world=3)
    blocks = read(tmp_path, block=3)
    assert firsts(blocks) == [0, 3, 4, 7, 8]
    assert torch.equal(joined(blocks, "centre"), CENTRE)
    assert torch.equal(joined(blocks, "momentum"), MOMENTUM)


def test_half_precision_centres_come_as_float32_and_momentum_starts_at_zero(tmp_path, in_process):
    save_checkpoints(tmp_path, world=1, dtype=torch.float16, optimizer=False)
    blocks = read(tmp_path)
    assert torch.equal(joined(blocks, "centre"), CENTRE)  # small integers: float16 has them all
    assert not joined(blocks, "momentum").any()


def test_only_the_optimizer_rows_that_are_asked_for_are_given(tmp_path, in_process):
    save_checkpoints(tmp_path, world=1)
    ((_, tensors),) = read(tmp_path, state_widths={"mean": DIM, "square": 1})
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "centre": (NUM_CLASSES, DIM),
        "mean": (NUM_CLASSES, DIM),
        "square": (NUM_CLASSES, 1),
    }
    assert not tensors["mean"].any()


@pytest.mark.parametrize("zipped", [True, False])
def test_bare_tensors_of_the_first_version_give_the_same(tmp_path, in_process, zipped):
    save_bare(tmp_path, world=2, zipped=zipped)
    blocks = read(tmp_path)
    assert torch.equal(joined(blocks, "centre"), CENTRE)
    assert torch.equal(joined(blocks, "momentum"), MOMENTUM)


def test_the_limited_process_reads_either_kind(tmp_path):
    for kind, save in {"whole": save_checkpoints, "bare": save_bare}.items():
        folder = tmp_path / kind
        folder.mkdir()
        save(folder, world=1)
        blocks = read(folder)
        assert torch.equal(joined(blocks, "centre"), CENTRE)
        assert torch.equal(joined(blocks, "momentum"), MOMENTUM)


def test_a_rank_reads_only_the_files_that_hold_its_classes(tmp_path, in_process):
    save_bare(tmp_path, world=4, momentum=False)  # three classes a rank, the last two
    for rank in (0, 3):
        (tmp_path / f"rank_{rank}_softmax_weight.pt").write_bytes(b"not to be read")
    blocks = read(tmp_path, partition=range(4, 8))
    assert firsts(blocks) == [4, 6]
    assert torch.equal(joined(blocks, "centre"), CENTRE[4:8])
    assert not joined(blocks, "momentum").any()


def test_a_missing_rank_is_named(tmp_path, in_process):
    save_checkpoints(tmp_path, world=3)
    (tmp_path / "checkpoint_gpu_1.pt").unlink()
    with pytest.raises(FileNotFoundError, match="but not rank 1's; copy the files of every rank"):
        read(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"holds no checkpoint_gpu_0\.pt and no rank_0_soft"
    ):
        read(tmp_path / "elsewhere")


def test_rows_that_do_not_add_up_to_the_classes_are_refused(tmp_path, in_process):
    save_bare(tmp_path, world=3)
    with pytest.raises(ValueError, match="holds 4 rows, not 5; pass the number of classes"):
        read(tmp_path, num_classes=13)


def test_momentum_of_another_shape_is_refused(tmp_path, in_process):
    save_bare(tmp_path, world=1)
    torch.save(MOMENTUM[:, :3].clone(), tmp_path / "rank_0_softmax_weight_mom.pt")
    with pytest.raises(
        ValueError, match=r"its momentum has shape \[11, 3\], its centres \[11, 5\]"
    ):
        read(tmp_path)


class Evil:
    """Unpickled without an allow-list it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict_softmax_fc": Evil(trap)}, tmp_path / "checkpoint_gpu_0.pt")
    with pytest.raises(ValueError, match=r"checkpoint_gpu_0.pt cannot be read: .*Weights only"):
        read(tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": torch.ones(1)}, "neither a tensor nor a checkpoint with state_dict_softmax_fc"),
        (torch.ones(3), r"its centre is torch.float32 of shape \[3\], no rows"),
        (torch.ones(3, 3, dtype=torch.int64), "its centre is torch.int64"),
        ({"state_dict_softmax_fc": {}}, "KeyError: 'weight'"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, in_process, content, message):
    torch.save(content, tmp_path / "checkpoint_gpu_0.pt")
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_takes_more_memory_than_it_may_is_refused(tmp_path, monkeypatch):
    torch.save(torch.zeros(1 << 16, 1 << 8), tmp_path / "rank_0_softmax_weight.pt")  # 64 MiB
    monkeypatch.setattr(limited, "ALLOWANCE_A_BYTE", 0)
    monkeypatch.setattr(limited, "ALLOWANCE_BYTES", 32 << 20)
    with pytest.raises(ValueError, match=r"cannot be read: .*[Mm]emory"):
        read(tmp_path, num_classes=1 << 16)


def test_a_few_bytes_that_claim_to_be_many_rows_do_not_fill_the_disk(tmp_path, monkeypatch):
    torch.save(torch.zeros(1, 1).expand(1 << 16, 1 << 8), tmp_path / "rank_0_softmax_weight.pt")
    monkeypatch.setattr(limited, "ALLOWANCE_BYTES", 32 << 20)
    with pytest.raises(ValueError, match=r"cannot be read: .*File too large"):
        read(tmp_path, num_classes=1 << 16)


def test_a_reader_that_ends_without_an_answer_is_reported(tmp_path, monkeypatch):
    save_bare(tmp_path, world=1)
    dead = SimpleNamespace(stdout=b"", stderr=b"first\nKilled\n", returncode=-9)
    monkeypatch.setattr(limited.subprocess, "run", lambda *_, **__: dead)
    with pytest.raises(ValueError, match="its reader ended with status -9: Killed"):
        read(tmp_path)
