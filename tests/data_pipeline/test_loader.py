"""The loader reads ahead, gives the same faces on any number of ranks, and always lets go."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.errors import DataError
from data_pipeline.loader import Loader, read_batches
from data_pipeline.plan import Plan, share
from data_pipeline.presets import PRESETS
from tests.data_pipeline.faces import dataset_of, flip_byte, jpeg

NUM_SAMPLES = 50
CONTENTS = [jpeg(seed) for seed in range(NUM_SAMPLES)]
AUGMENTATION = replace(PRESETS["strong"], crop=0.1, seed=5)
STEPS = 7  # of 3 x 4 samples: an epoch and a half


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "faces"
    made = dataset_of(folder, CONTENTS, [s % 5 for s in range(NUM_SAMPLES)])
    assert len(made.shards) >= 3
    return made


@pytest.fixture
def damaged(tmp_path):
    """The same faces, three of which changed on disk."""
    made = dataset_of(tmp_path / "faces", CONTENTS, [s % 5 for s in range(NUM_SAMPLES)])
    for sample in (2, 17, 33):
        flip_byte(made, sample)
    return made


def plan_of(dataset):
    return Plan(dataset.shard_sizes, micro_batches=3, micro_batch_size=4, seed=1, shuffle_window=2)


def loader_of(dataset, micro_batches=range(3), **options):
    settings = {"quarantine": {}, "bad_sample_budget": 3} | options
    return Loader(
        dataset,
        plan_of(dataset),
        micro_batches,
        image_size=32,
        augmentation=AUGMENTATION,
        **settings,
    )


def steps_of(dataset, micro_batches=range(3), *, steps=STEPS, **options):
    loader = loader_of(dataset, micro_batches, **options)
    loaded = [next(loader) for _ in range(steps)]
    loader.close()
    return loaded


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for part, same_part in zip(batch, other, strict=True):
            assert torch.equal(part, same_part)


@pytest.fixture(scope="module")
def whole(dataset):
    """All micro-batches of every step, read by one rank."""
    return steps_of(dataset)


def test_batches_are_the_plans_samples_with_their_labels(dataset, whole):
    plan = plan_of(dataset)
    for step, loaded in enumerate(whole):
        assert len(loaded.batches) == len(loaded.digests) == 3
        for j, batch in enumerate(loaded.batches):
            sample, _ = plan.micro_batch(step, j)
            np.testing.assert_array_equal(batch.sample.numpy(), sample)
            np.testing.assert_array_equal(batch.label.numpy(), sample % 5)
            assert batch.image.shape == (4, 3, 32, 32)
        assert loaded.quarantined == {}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_read_exactly_what_one_rank_reads(dataset, whole, world):
    ranks = [steps_of(dataset, share(3, rank, world)) for rank in range(world)]
    for step, loaded in enumerate(whole):
        assert_same([b for rank in ranks for b in rank[step].batches], loaded.batches)
        assert [d for rank in ranks for d in rank[step].digests] == loaded.digests


@pytest.mark.parametrize("start", range(1, STEPS))
def test_starting_at_any_step_continues_bit_by_bit(dataset, whole, start):
    resumed = steps_of(dataset, start_step=start, steps=STEPS - start, threads=2, prefetch=1)
    for loaded, expected in zip(resumed, whole[start:], strict=True):
        assert_same(loaded.batches, expected.batches)
        assert loaded.digests == expected.digests


def test_digests_tell_the_order_of_samples_apart(whole):
    digests = [d for loaded in whole for d in loaded.digests]
    assert len(set(digests)) == len(digests)
    assert all(0 <= d < 2**64 for d in digests)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_resumed_run_replaces_bad_samples_as_the_first_did(damaged, world):
    first = steps_of(damaged)
    found = {s: r for loaded in first for s, r in loaded.quarantined.items()}
    assert found == {2: "crc", 17: "crc", 33: "crc"}
    known = {s: r for loaded in first[:3] for s, r in loaded.quarantined.items()}
    ranks = [
        steps_of(damaged, share(3, rank, world), start_step=3, steps=STEPS - 3, quarantine=known)
        for rank in range(world)
    ]
    for step, loaded in enumerate(first[3:]):
        assert_same([b for rank in ranks for b in rank[step].batches], loaded.batches)
        assert [d for rank in ranks for d in rank[step].digests] == loaded.digests


def test_too_many_bad_samples_reach_the_consumer_after_the_good_steps_and_stay(damaged):
    loader = loader_of(damaged, bad_sample_budget=2)
    good = []
    with pytest.raises(DataError, match=r"3 bad samples \(3 crc\), more than the allowed 2"):
        good.extend(loader)
    assert good  # what came before the error stays in the list
    with pytest.raises(DataError, match="3 bad samples"):
        next(loader)
    loader.close()


def test_damaged_records_reach_the_consumer(damaged):
    for shard in damaged.shards:
        (damaged.path / f"{shard.name}.members").write_bytes(b"short")
    loader = loader_of(damaged)
    with pytest.raises(DataError, match="members"):
        next(loader)
    loader.close()


class CountingPlan(Plan):
    """A plan that remembers the last step asked for."""

    last_step = -1

    def micro_batch(self, step, j):
        self.last_step = max(self.last_step, step)
        return super().micro_batch(step, j)


def test_no_more_than_prefetch_steps_are_made_ahead(dataset):
    plan = CountingPlan(dataset.shard_sizes, micro_batches=3, micro_batch_size=4, seed=1)
    loader = Loader(
        dataset,
        plan,
        range(3),
        image_size=32,
        augmentation=AUGMENTATION,
        quarantine={},
        bad_sample_budget=0,
        prefetch=2,
    )
    next(loader)
    seen = -1
    while seen != plan.last_step:  # until it stands still
        seen = plan.last_step
        time.sleep(0.2)
    # Steps 1 and 2 are ready, and the first batch of step 3 is on its way through the decoder.
    assert seen == 3
    loader.close()


def footprint() -> tuple[int, ...]:
    """Threads, native ones included, and open files of this process."""
    return tuple(len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd"))


@pytest.fixture
def lets_go(dataset):
    """After the test, all threads and files that it started or opened are gone."""
    steps_of(dataset, steps=1)  # what DALI and torch open once stays open
    before = footprint()
    yield
    gc.collect()
    until = time.monotonic() + 20
    # A thread that was joined is listed for a moment longer.
    while any(now > then for now, then in zip(footprint(), before, strict=True)):
        assert time.monotonic() < until, f"threads and files {footprint()}, before {before}"
        time.sleep(0.02)


@pytest.mark.usefixtures("lets_go")
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_close_ends_threads_and_closes_files_at_any_moment(dataset, taken):
    loader = loader_of(dataset, threads=2)
    for _ in range(taken):
        next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


@pytest.mark.usefixtures("lets_go")
def test_a_forgotten_loader_is_collected_with_its_thread(dataset):
    loader = loader_of(dataset)
    next(loader)
    del loader


class CollectingPlan(Plan):
    """A plan that, once asked for its third step, waits and then runs the garbage collector."""

    forgotten = threading.Event()

    def micro_batch(self, step, j):
        if step == 2:
            self.forgotten.wait(20)
            gc.collect()
        return super().micro_batch(step, j)


@pytest.mark.usefixtures("lets_go")
def test_a_loader_may_be_collected_by_its_own_thread(dataset):
    loader = Loader(
        dataset,
        plan := CollectingPlan(dataset.shard_sizes, micro_batches=1, micro_batch_size=4, seed=1),
        range(1),
        image_size=32,
        augmentation=AUGMENTATION,
        quarantine={},
        bad_sample_budget=0,
        prefetch=5,
    )
    collector = []
    weakref.finalize(loader, lambda: collector.append(threading.current_thread().name))
    gc.disable()  # only the loader's own thread may find it
    try:
        cycle: list[object] = [loader]
        cycle.append(cycle)
        del loader, cycle
        plan.forgotten.set()
        until = time.monotonic() + 20
        while not collector and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert collector == ["facescale-loader"]


def test_close_from_another_thread_wakes_a_waiting_consumer(dataset):
    loader = loader_of(dataset)
    ended = []

    def consume() -> None:
        try:
            while True:
                next(loader)
        except RuntimeError as error:
            ended.append(str(error))

    consumer = threading.Thread(target=consume)
    consumer.start()
    time.sleep(0.3)
    loader.close()
    consumer.join(20)
    assert ended == ["the loader is closed"]


def test_a_program_that_forgets_to_close_still_ends(dataset):
    program = f"""
from data_pipeline.augment import Augmentation
from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.plan import Plan
dataset = Dataset.open({str(dataset.path)!r})
plan = Plan(dataset.shard_sizes, micro_batches=1, micro_batch_size=4, seed=0)
loader = Loader(dataset, plan, range(1), image_size=32, augmentation=Augmentation(),
                quarantine={{}}, bad_sample_budget=0)
print(len(next(loader).batches[0].label))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"micro_batches": range(2, 4)}, "share"),
        ({"micro_batches": range(0)}, "share"),
        ({"prefetch": 0}, "prefetch"),
        ({"threads": 0}, "threads"),
    ],
)
def test_impossible_settings_are_refused(dataset, wrong, message):
    with pytest.raises(ValueError, match=message):
        loader_of(dataset, **wrong)


def test_a_plan_for_another_dataset_is_refused(dataset):
    plan = Plan((3, 4), micro_batches=1, micro_batch_size=2, seed=0)
    with pytest.raises(ValueError, match=str(dataset.path)):
        Loader(
            dataset,
            plan,
            range(1),
            image_size=32,
            augmentation=AUGMENTATION,
            quarantine={},
            bad_sample_budget=0,
        )


def test_verification_reads_the_samples_in_order_and_unchanged(dataset):
    wanted = [7, 3, 49, 3, 0, 22, 8]
    batches = list(read_batches(dataset, wanted, batch_size=3, image_size=32, threads=2))
    assert [len(batch.label) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.sample for batch in batches]).tolist() == wanted
    assert torch.cat([batch.label for batch in batches]).tolist() == [s % 5 for s in wanted]
    image = torch.cat([batch.image for batch in batches])
    (one_by_one,) = read_batches(dataset, wanted, batch_size=7, image_size=32)
    assert torch.equal(image, one_by_one.image)
    assert torch.equal(image[1], image[3])


def test_verification_of_nothing_reads_nothing(dataset):
    assert list(read_batches(dataset, [], batch_size=3, image_size=32)) == []


def test_verification_stops_at_a_bad_sample_and_names_it(damaged):
    batches = read_batches(damaged, range(NUM_SAMPLES), batch_size=4, image_size=32)
    with pytest.raises(DataError, match=r"sample 2 \(shard-000000.tar, number 2\).*\(crc\)"):
        list(batches)


def test_verification_names_an_image_that_does_not_decode(tmp_path):
    contents = [*CONTENTS[:6], CONTENTS[6][:300], *CONTENTS[7:9]]
    cut = dataset_of(tmp_path / "faces", contents, [0] * 9)
    read = read_batches(cut, [1, 0, 8, 6, 2], batch_size=4, image_size=32)
    with pytest.raises(DataError, match=r"sample 6 .*\(decode\)"):
        list(read)


@pytest.mark.parametrize("wrong", [[0, 50], [-1]])
def test_verification_of_samples_that_do_not_exist_is_refused(dataset, wrong):
    with pytest.raises(DataError, match="samples 0 to 49"):
        list(read_batches(dataset, wrong, batch_size=2, image_size=32))


@pytest.mark.usefixtures("lets_go")
def test_verification_left_half_way_closes_its_files(dataset):
    batches = read_batches(dataset, range(NUM_SAMPLES), batch_size=4, image_size=32)
    next(batches)
    del batches
