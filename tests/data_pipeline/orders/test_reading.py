"""Orders, subsets and mixtures through the loader: the same faces at any world size."""

import pytest
import torch

from data_pipeline.augment import Augmentation
from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.mixture import mix
from data_pipeline.orders.identities import Identities
from data_pipeline.orders.pairs import PairOrder
from data_pipeline.plan import share
from data_pipeline.subset import choose, subset
from tests.data_pipeline.faces import dataset_of, flip_byte, jpeg

LABELS = [0, 1, 0, 2, 1, 0, 2, 0, 1, 2, 3, 2]
M = 3
STEPS = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("orders")
    first = dataset_of(folder / "first", [jpeg(s) for s in range(12)], LABELS)
    second = dataset_of(folder / "second", [jpeg(s) for s in range(12, 24)], LABELS)
    flip_byte(second, 1)
    whole = mix([subset(first, choose(first, min_images=2)), second], labels="disjoint")
    assert whole.num_samples == 11 + 12
    return whole


def order_of(dataset: Dataset) -> PairOrder:
    return PairOrder(
        Identities.of(dataset),
        shard_sizes=dataset.shard_sizes,
        micro_batches=M,
        micro_batch_size=8,
        seed=1,
        shuffle_window=2,
    )


def read(dataset: Dataset, micro_batches: range, *, start_step: int = 0):
    loader = Loader(
        dataset,
        order_of(dataset),
        micro_batches,
        image_size=32,
        augmentation=Augmentation(flip=0.5, brightness=0.4, seed=5),
        start_step=start_step,
        quarantine={},
        bad_sample_budget=1,
    )
    steps = [next(loader) for _ in range(STEPS - start_step)]
    loader.close()
    return steps


def test_pairs_of_a_mixture_of_a_subset_are_the_same_at_any_world_size_and_after_a_resume(dataset):
    whole = read(dataset, range(M))
    for world in (2, 3):
        for rank in range(world):
            mine = share(M, rank, world)
            for step, other in zip(read(dataset, mine, start_step=1), whole[1:], strict=True):
                for batch, j in zip(step.batches, mine, strict=True):
                    assert torch.equal(batch.image, other.batches[j].image)
                    assert torch.equal(batch.label, other.batches[j].label)


def test_both_halves_of_a_batch_show_the_same_pairs_but_where_a_bad_sample_was_replaced(dataset):
    order = order_of(dataset)
    label, bad = dataset.labels(), 11 + 1
    for number, step in enumerate(read(dataset, range(M))):
        for j, batch in enumerate(step.batches):
            planned, _ = order.micro_batch(number, j)
            kept = torch.from_numpy(planned != bad)
            assert torch.equal(batch.sample[kept], torch.from_numpy(planned)[kept])
            assert bad not in batch.sample
            assert batch.label.tolist() == label[batch.sample.numpy()].tolist()
            first, second = batch.label.reshape(2, 4)[:, :2]
            intact = kept.reshape(2, 4)[:, :2].all(0)
            assert torch.equal(first[intact], second[intact])
