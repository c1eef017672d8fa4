"""A machine that stops at any point, with what was not synced dropped or torn, loses no checkpoint.

The writes of a run are replayed up to each of them in turn. `kill -9` would not do: it leaves the
system's cache, so everything that was written is there.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sharded_fc.tables import StoredTable, read_table
from tests.sharded_fc.tables.small import (
    State,
    content,
    open_on,
    overlapping_rows,
    run,
    same,
)
from tests.sharded_fc.tables.stopped_disk import (
    Entry,
    Image,
    LoggedDisk,
    QuickDisk,
    stopped,
    write_image,
)

KINDS = ("host", "mapped")
SEEDS = range(2)
ROWS = 0  # the file that is made first
SAVED = (2, 4, 7)  # checkpoints are taken before these steps
FORGOTTEN = 4  # so that two remain, and one can be returned to once more


class Training:
    """A run on a logged disk, and what it knew at each point of the log."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.states: dict[int, State] = {}
        self.safe: list[tuple[int, int]] = []  # (length of the log, checkpoint that returned)
        self.disk = disk = LoggedDisk(folder)
        table = open_on(disk, folder, kind, 0)
        plan = overlapping_rows(0, 9)
        self._note(table, 0)

        def save(step: int) -> None:
            if step + 1 in SAVED:
                table.checkpoint(step + 1)
                self._note(table, step + 1)
            if step + 1 == SAVED[-1]:
                table.forget(before=FORGOTTEN)

        list(run(table, plan[: SAVED[1] + 2], after=save))
        table.restore(SAVED[1])  # and on from there, over what it had kept
        list(run(table, plan[SAVED[1] :], first_step=SAVED[1], after=save))
        table.close()

    def _note(self, table: StoredTable, step: int) -> None:
        self.safe.append((len(self.disk.log), step))
        self.states[step] = content(table)

    def wanted(self, length: int) -> int:
        """The checkpoint that a run which knew this much of the log would continue from."""
        return max((step for known, step in self.safe if known <= length), default=0)

    def left(self, length: int, seed: int) -> Image:
        rng = np.random.default_rng([seed, length])
        return stopped(self.disk.start, self.disk.log[:length], rng)


@pytest.fixture(scope="module", params=KINDS)
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("run") / "table", request.param)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[Image], Path]:
    """`folders(image)` is a new folder that holds it."""
    made = []

    def make(image: Image) -> Path:
        folder = tmp_path / str(len(made))
        made.append(folder)
        write_image(folder, image)
        return folder

    return make


def check(folder: Path, training: Training, step: int) -> None:
    """The table is at `step`, and can go back to every checkpoint that it still has."""
    table = open_on(QuickDisk(), folder, "mapped", step)
    try:
        for known in reversed(table.checkpoints):
            table.restore(known)
            assert same(content(table), training.states[known]), known
    finally:
        table.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_stop_at_any_write_the_last_checkpoint_is_there_exactly(training, folders, seed):
    log = training.disk.log
    assert len(log) > 50
    for length in range(len(log) + 1):
        check(folders(training.left(length, seed)), training, training.wanted(length))


def test_a_stop_during_the_way_back_changes_nothing(training, folders):
    rng = np.random.default_rng(0)
    lengths = rng.choice(len(training.disk.log), 8, replace=False)
    returned = 0
    for length in lengths.tolist():
        step = training.wanted(length)
        folder = folders(training.left(length, 1))
        disk = LoggedDisk(folder)
        open_on(disk, folder, "mapped", step).close()
        returned += len(disk.log)
        for again in range(len(disk.log) + 1):
            image = stopped(disk.start, disk.log[:again], rng)
            check(folders(image), training, step)
    assert returned > 30


def test_after_a_stop_a_checkpoint_can_be_read_without_going_back(training, folders):
    rng = np.random.default_rng(2)
    for length in rng.choice(len(training.disk.log) + 1, 25, replace=False).tolist():
        image = training.left(length, 2)
        if "table.json" not in image:  # stopped before there was a table
            continue
        step = training.wanted(length)
        blocks = [tensors for _, tensors in read_table(folders(image), step=step, block=11)]
        found = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        assert same(found, training.states[step]), length


MISTAKES = {
    "journals": lambda entry: entry.kind == "sync" and entry.file != ROWS,
    "rows": lambda entry: entry.kind == "sync" and entry.file == ROWS,
    "names": lambda entry: entry.kind == "sync folder",
}


@pytest.mark.parametrize("what", MISTAKES)
def test_the_replay_shows_what_was_not_synced(training, folders, what):
    log = training.disk.log
    wrong = [Entry("left out") if MISTAKES[what](entry) else entry for entry in log]

    def survives(length: int) -> bool:
        image = stopped(training.disk.start, wrong[:length], np.random.default_rng(length))
        try:
            check(folders(image), training, training.wanted(length))
        except (AssertionError, OSError, ValueError):
            return False
        return True

    assert not all(survives(length) for length in range(len(log)))
