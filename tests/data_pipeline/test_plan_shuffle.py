"""How good a shuffle in windows of shards is, and how little of the dataset a rank reads for it.

The datasets here have labels in random order, as packing leaves them. Bounds are six standard
deviations of the statistic under a perfect shuffle, so a fair order fails one in 10^8 times; the
plans are keyed, so a test that passes once passes always.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.assembly import Assembler
from data_pipeline.augment import Augmentation
from data_pipeline.plan import Plan, share
from data_pipeline.shards import ShardReader
from tests.data_pipeline.faces import dataset_of, jpeg

SHARDS, SHARD_SIZE, WINDOW = 64, 100, 8
N = SHARDS * SHARD_SIZE
LANES = 2
GROUP = WINDOW * SHARD_SIZE


def plan_of(seed: int, *, micro_batch_size: int = 32) -> Plan:
    return Plan(
        (SHARD_SIZE,) * SHARDS,
        micro_batches=LANES,
        micro_batch_size=micro_batch_size,
        seed=seed,
        shuffle_window=WINDOW,
    )


def lane_of_epoch(plan: Plan, epoch: int, j: int) -> np.ndarray:
    sample, of_epoch = plan.lane(j, 0, (epoch + 1) * N // LANES + 2)
    return sample[of_epoch == epoch]


def test_a_sample_comes_at_any_place_of_an_epoch_equally_often():
    """Its lane and its tenth of the lane, over 200 seeds, against a uniform place."""
    watched = np.array([0, 1, SHARD_SIZE - 1, N // 2, N - 1])
    found = np.zeros((len(watched), 10 * LANES))
    seeds = 200
    for seed in range(seeds):
        plan = plan_of(seed)
        for j in range(LANES):
            place = np.full(N, -1)
            lane = lane_of_epoch(plan, 0, j)
            place[lane] = np.arange(len(lane)) * 10 // len(lane)
            for row, sample in enumerate(watched):
                if place[sample] >= 0:
                    found[row, 10 * j + place[sample]] += 1
    assert (found.sum(axis=1) == seeds).all()
    expected = seeds / (10 * LANES)
    chi_square = ((found - expected) ** 2 / expected).sum(axis=1)
    # 19 degrees of freedom: mean 19, standard deviation sqrt(38).
    assert chi_square.max() < 19 + 6 * np.sqrt(38)


def test_within_a_window_the_order_says_nothing_about_the_place_in_the_dataset():
    lane = lane_of_epoch(plan_of(3), 0, 1)
    neighbours = []
    for start in range(0, len(lane) - GROUP, GROUP // 2):
        stretch = lane[start : start + GROUP // 2].astype(float)
        neighbours.append(np.corrcoef(stretch[:-1], stretch[1:])[0, 1])
    # The correlation of n independent pairs has a standard deviation of 1 / sqrt(n).
    assert abs(np.mean(neighbours)) < 6 / np.sqrt(len(neighbours) * GROUP / 2)


def test_a_micro_batch_draws_from_all_shards_of_its_window_alike():
    plan = plan_of(5)
    chi_squares, degrees = [], 0
    for j in range(LANES):
        pieces = plan.pieces(0, j)
        groups = -(-len(pieces) // WINDOW)
        lane, first = lane_of_epoch(plan, 0, j), 0
        for g in range(groups):
            group = pieces[g * len(pieces) // groups : (g + 1) * len(pieces) // groups]
            sizes = np.array([piece.stop - piece.start for piece in group])
            place = {piece.shard: i for i, piece in enumerate(group)}
            shard = np.array([place[s // SHARD_SIZE] for s in lane[first : first + sizes.sum()]])
            first += sizes.sum()
            for start in range(0, len(shard) - 50, 50):
                found = np.bincount(shard[start : start + 50], minlength=len(sizes))
                expected = 50 * sizes / sizes.sum()
                chi_squares.append(((found - expected) ** 2 / expected).sum())
                degrees += len(sizes) - 1
    # Without replacement counts vary a little less than multinomial ones, so it is an upper bound.
    assert sum(chi_squares) < degrees + 6 * np.sqrt(2 * degrees)
    # A tenth less than expected is what drawing 50 of 800 without replacement explains.
    assert sum(chi_squares) > 0.85 * degrees - 6 * np.sqrt(2 * degrees)


def test_identities_meet_in_micro_batches_as_in_a_shuffle_of_everything():
    """Pairs of one label in a micro-batch, against a permutation of the whole dataset."""
    random = np.random.default_rng(0)
    label = random.permutation(np.repeat(np.arange(N // 10), 10))

    def meetings(order: np.ndarray) -> int:
        batches = order[: len(order) // 32 * 32].reshape(-1, 32)
        counts = [Counter(label[batch].tolist()).values() for batch in batches]
        return sum(n * (n - 1) // 2 for count in counts for n in count)

    windowed = sum(
        meetings(lane_of_epoch(plan_of(seed), 0, j)) for seed in range(20) for j in range(LANES)
    )
    whole = sum(meetings(random.permutation(N)) for _ in range(20))
    # Two counts of rare meetings, each about Poisson: their difference has variance of their sum.
    assert abs(windowed - whole) < 6 * np.sqrt(windowed + whole)


def test_faces_that_met_in_one_epoch_meet_again_no_more_than_windows_explain():
    plan, size = plan_of(7), 32
    batch_of = np.full((2, N), -1)
    for epoch in range(2):
        for j in range(LANES):
            lane = lane_of_epoch(plan, epoch, j)
            batch_of[epoch, lane] = j * N + np.arange(len(lane)) // size
    together = Counter(zip(*batch_of.tolist(), strict=True))
    again = sum(n * (n - 1) // 2 for n in together.values())
    pairs = N * (size - 1) / 2
    # A pair that met may come from one shard (then it shares its window again) or from two shards
    # that share a window again: 1/8 + 7/8 x 8/64 at most 0.24; in one window of 800 the chance
    # to share a micro-batch of 32 is 31/799.
    expected = pairs * (1 / WINDOW + (1 - 1 / WINDOW) * WINDOW / SHARDS) * (size - 1) / (GROUP - 1)
    assert again < 1.1 * expected + 6 * np.sqrt(expected)


@given(
    sizes=st.lists(st.integers(5, 30), min_size=4, max_size=12).map(tuple),
    lanes_each=st.integers(1, 3),
    world=st.sampled_from([1, 2, 3, 4]),
    window=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_a_rank_reads_its_part_of_every_epoch_and_one_window_at_a_time(
    sizes, lanes_each, world, window, epoch
):
    plan = Plan(
        sizes, micro_batches=lanes_each * world, micro_batch_size=4, seed=1, shuffle_window=window
    )
    for rank in range(world):
        samples = 0
        for j in share(plan.micro_batches, rank, world):
            pieces = plan.pieces(epoch, j)
            samples += sum(piece.stop - piece.start for piece in pieces)
        # Lanes of an epoch differ by at most one sample.
        assert samples <= plan.num_samples / world + lanes_each


@given(world=st.integers(1, 8), other=st.integers(1, 8))
def test_resizing_changes_who_owns_a_lane_and_not_its_order(world, other):
    plan = Plan((50,) * 8, micro_batches=8, micro_batch_size=5, seed=2, shuffle_window=3)
    owners = [{j: rank for rank in range(w) for j in share(8, rank, w)} for w in (world, other)]
    assert set(owners[0]) == set(owners[1]) == set(range(8))
    fresh = Plan((50,) * 8, micro_batches=8, micro_batch_size=5, seed=2, shuffle_window=3)
    for j in range(8):
        before = np.concatenate([plan.micro_batch(step, j)[0] for step in range(6)])
        after = np.concatenate([fresh.micro_batch(step, j)[0] for step in range(3, 9)])
        whole = plan.lane(j, 0, 45)[0]
        assert np.array_equal(before, whole[:30])
        assert np.array_equal(after, whole[15:])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images of about equal size in sixteen shards."""
    folder = tmp_path_factory.mktemp("bytes") / "faces"
    contents = [jpeg(seed) for seed in range(240)]
    return dataset_of(folder, contents, [0] * 240, shard_bytes=sum(map(len, contents)) // 12)


def open_tars(folder: Path) -> int:
    """How many of a dataset's tars this process has open."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:  # the handle of the listing itself
            continue
        count += target.parent == folder and target.suffix == ".tar"
    return count


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_bytes_a_rank_reads_are_its_part_and_a_window_with_a_window_of_shards_open(
    dataset, world, monkeypatch
):
    window, lanes = 3, 4
    plan = Plan(
        dataset.shard_sizes, micro_batches=lanes, micro_batch_size=6, seed=9, shuffle_window=window
    )
    read = []
    whole = ShardReader.read

    def counted(self, sample):
        face = whole(self, sample)
        read.append(len(face.content))
        return face

    monkeypatch.setattr(ShardReader, "read", counted)
    size_of = [int(size) for i in range(len(dataset.shards)) for size in dataset.members(i)["size"]]
    largest_window = window * max(shard.bytes for shard in dataset.shards)
    steps = dataset.num_samples // (lanes * 6)  # an epoch
    for rank in range(world):
        mine = share(lanes, rank, world)
        read.clear()
        assembler = Assembler(
            dataset,
            plan,
            lanes=len(mine),
            image_size=32,
            augmentation=Augmentation(),
            device="cpu",
            threads=1,
            quarantine={},
            bad_sample_budget=0,
        )
        most_open = 0
        for _ in assembler.micro_batches((step, j) for step in range(steps) for j in mine):
            most_open = max(most_open, open_tars(dataset.path))
        assembler.close()
        assert sum(read) <= sum(size_of) / world + largest_window
        assert most_open <= len(mine) * window
