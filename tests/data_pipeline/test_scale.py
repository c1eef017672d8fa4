"""At the size of 42 million samples: one order for any number of ranks, and a small index."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.index import Dataset
from data_pipeline.plan import Plan, share
from tests.benchmarks.bench_index import make

WORLDS = (1, 2, 3, 8, 1000)
LANES = 1000
SIZES = tuple(int(42_000_000 * (k + 1) // 5300 - 42_000_000 * k // 5300) for k in range(5300))


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=30).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 10_000),
    size=st.integers(1, 8),
    lanes=st.lists(st.integers(0, LANES - 1), min_size=1, max_size=5, unique=True),
)
def test_the_order_is_the_same_for_1_2_3_8_and_1000_ranks(sizes, seed, step, size, lanes):
    def plan():
        return Plan(sizes, micro_batches=LANES, micro_batch_size=size, seed=seed)

    whole = plan()
    for world in WORLDS:
        shares = [share(LANES, rank, world) for rank in range(world)]
        assert [lane for own in shares for lane in own] == list(range(LANES))
        for own in shares:
            mine = [lane for lane in lanes if lane in own]
            ranks_plan = plan() if mine else whole
            for lane in mine:
                expected = whole.micro_batch(step, lane)
                assert np.array_equal(ranks_plan.micro_batch(step, lane), expected)


def test_ranks_of_42_million_samples_resume_in_one_order_wherever_they_are():
    step = 10_000_000 // (LANES * 16)
    whole = Plan(SIZES, micro_batches=LANES, micro_batch_size=16, seed=7)
    for world, rank in ((2, 1), (3, 2), (8, 5), (1000, 617)):
        last = share(LANES, rank, world)[-1]
        own = Plan(SIZES, micro_batches=LANES, micro_batch_size=16, seed=7)
        assert np.array_equal(own.micro_batch(step, last), whole.micro_batch(step, last))


def test_the_made_up_dataset_of_the_benchmark_is_one_that_opens(tmp_path):
    make(tmp_path, samples=1001, shards=7)
    dataset = Dataset.open(tmp_path)
    assert dataset.num_samples == 1001
    assert dataset.members(3)["size"].sum() == 0
    assert dataset.images_per_identity()[0] == 1001
