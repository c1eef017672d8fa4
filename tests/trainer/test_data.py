"""From a run file to the training set and its order, and a short run of several datasets."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset
from data_pipeline.long_tail import loss_weight
from data_pipeline.orders.by_identity import IdentityOrder
from data_pipeline.orders.mixed import MixedOrder
from data_pipeline.orders.pairs import PairOrder
from data_pipeline.plan import Plan
from tests.data_pipeline.faces import dataset_of, jpeg
from trainer import config, run_folder
from trainer.config import RunConfig
from trainer.data import make_order, open_data, sample_rules
from trainer.errors import RunError, RunFileError
from trainer.launch import run_local
from trainer.metrics import HISTORY, read_lines

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make(folder / "faces", [0, 1, 2, 0, 3, 0, 1, 0], ["ann", "bob", "cho", "dee"])
    make(folder / "more", [0, 1, 2, 1], ["bob", "eve", "fay"])
    (folder / "some.txt").write_text("ann\ndee\n")
    return folder


def make(path: Path, labels: list[int], names: list[str]) -> Dataset:
    contents = [jpeg(seed) for seed in range(len(labels))]
    dataset = dataset_of(path, contents, labels, num_identities=len(names))
    parquet.write_table(pa.table({"name": names}), path / IDENTITIES)
    return dataset


def load(folder: Path, **data: Any) -> RunConfig:
    tree = {
        "name": "several",
        "steps": 3,
        "data": {"path": "faces", "image_size": 32, **data},
        "batch": {"micro_batches": 2, "micro_batch_size": 4},
    }
    path = folder / "run.yaml"
    path.write_text(config.dump(config.from_tree(tree, source="test")))
    return config.load(path)


MIX = {"others": [{"path": "more"}]}


def test_a_run_file_that_says_nothing_else_reads_all_of_one_dataset_shuffled(folder: Path):
    run = load(folder)
    dataset = open_data(run.data)
    assert dataset.path == folder / "faces"
    order = make_order(run, dataset)
    assert isinstance(order, Plan)
    assert (order.seed, order.shuffle_window, order.micro_batches) == (run.seed, 4, 2)
    assert sample_rules(run.data, dataset, device=CPU).of(torch.tensor([0])) == {
        "sample_weight": None,
        "class_range": None,
    }


def test_a_subset_takes_what_satisfies_everything(folder: Path):
    def names(**chosen: Any) -> list[str]:
        return open_data(load(folder, subset=chosen).data).identity_names()

    assert names(only="some.txt") == ["ann", "dee"]
    assert names(without="some.txt") == ["bob", "cho"]
    assert names(min_images=2) == ["ann", "bob"]
    assert names(max_images=2, labels=[1, 3]) == ["bob", "cho"]
    with pytest.raises(DataError, match=r"nothing of .*faces is chosen"):
        names(min_images=100)


@pytest.mark.parametrize(
    ("labels", "identities", "told"),
    [
        ("separate", 7, [[0, 4], [4, 7]]),
        ("disjoint", 7, None),
        ("shared", 6, None),
    ],
)
def test_datasets_are_mixed_with_the_labels_that_are_asked_for(
    folder: Path, labels: str, identities: int, told: list[list[int]] | None
):
    run = load(folder, mix=MIX | {"labels": labels})
    dataset = open_data(run.data)
    assert (dataset.num_samples, dataset.num_identities) == (12, identities)
    ranges = sample_rules(run.data, dataset, device=CPU).of(torch.tensor([1, 5]))["class_range"]
    assert (None if ranges is None else ranges.tolist()) == told


def test_others_may_be_subsets_too(folder: Path):
    others = [{"path": "more", "subset": {"min_images": 2}}]
    dataset = open_data(load(folder, mix={"others": others}).data)
    assert dataset.identity_names() == ["ann", "bob", "cho", "dee", "eve"]


def test_every_order_is_made_by_its_name(folder: Path):
    def order(name: str, mix: dict | None = None, **fields: Any) -> object:
        run = load(folder, order={"name": name, **fields}, mix=mix)
        return make_order(run, open_data(run.data))

    assert isinstance(order("identities", images_each=2), IdentityOrder)
    assert isinstance(order("pairs"), PairOrder)
    assert isinstance(order("long_tail"), IdentityOrder)
    assert isinstance(order("long_tail", by="loss"), Plan)
    assert isinstance(order("shuffled", MIX), Plan)
    assert isinstance(order("shuffled", MIX | {"weights": [3, 1]}), MixedOrder)
    assert isinstance(order("long_tail", MIX | {"weights": [3, 1]}, by="loss"), MixedOrder)
    assert isinstance(order("pairs", MIX), PairOrder)
    with pytest.raises(RunError, match=r"data\.order: micro-batches of 4 samples do not divide"):
        order("identities", images_each=3)


def test_a_long_tail_by_loss_weighs_classes(folder: Path):
    run = load(folder, order={"name": "long_tail", "beta": 0.9, "by": "loss"})
    weight = sample_rules(run.data, open_data(run.data), device=CPU).weight
    assert weight is not None
    wanted = loss_weight(np.array([4, 2, 1, 1]), beta=0.9)
    assert weight.tolist() == pytest.approx(wanted.tolist(), rel=1e-6)  # float32


def test_paths_below_data_are_made_absolute(folder: Path):
    others = [{"path": "more", "subset": {"without": "some.txt"}}]
    run = load(folder, mix={"others": others}, subset={"only": "some.txt"})
    assert run.data.folders == (str(folder / "faces"), str(folder / "more"))
    assert run.data.subset is not None
    assert run.data.subset.only == str(folder / "some.txt")
    assert run.data.mix is not None
    (other,) = run.data.mix.others
    assert other.subset is not None
    assert other.subset.without == str(folder / "some.txt")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"order": {"name": "sorted"}}, "data.order: Input tag 'sorted'"),
        ({"order": {"name": "pairs", "beta": 1}}, "data.order.pairs.beta: Unexpected"),
        ({"order": {"name": "long_tail", "beta": 2}}, "data.order.long_tail.beta: "),
        ({"mix": {"others": []}}, "data.mix.others: "),
        ({"mix": MIX | {"weights": [1]}}, "1 weights for 2 datasets"),
        ({"mix": MIX | {"weights": [1, 0]}}, "data.mix.weights.1: "),
        ({"mix": MIX | {"weights": [1, 1]}, "order": {"name": "pairs"}}, "leave one of them out"),
        ({"subset": {"min_images": 3, "max_images": 2}}, "max_images = 2 is below min_images"),
        ({"subset": {"labels": [3, 3]}}, "labels = [3, 3] are none"),
    ],
)
def test_what_does_not_go_together_is_refused_with_its_path(data: dict[str, Any], told: str):
    tree = {"name": "a", "steps": 1, "data": {"path": "faces", **data}}
    with pytest.raises(RunFileError) as caught:
        config.from_tree(tree, source="run.yaml")
    assert told in str(caught.value)


def test_a_run_of_two_datasets_with_weights_finishes(folder: Path):
    run = config.from_tree(
        {
            "name": "mixed",
            "steps": 2,
            "runs": str(folder / "runs"),
            "data": {
                "path": str(folder / "faces"),
                "image_size": 32,
                "mix": {"others": [{"path": str(folder / "more")}], "weights": [1, 1]},
                "order": {"name": "long_tail", "by": "loss"},
            },
            "backbone": {"name": "facenet_small", "embedding_dim": 16},
            "head": {"margin": {"name": "normface"}, "scale": 1.0},
            "batch": {"micro_batches": 2, "micro_batch_size": 4},
            "every": {"log": 1, "save": 2},
        },
        source="test",
    )
    assert run_local(run, run_folder.prepare(run)) == "finished"
    losses = [record["loss"] for record in read_lines(run.folder / HISTORY)]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
