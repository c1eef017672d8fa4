import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset
from data_pipeline.mixture import mix
from data_pipeline.shards import BadSampleError, ShardReader
from data_pipeline.subset import subset
from tests.data_pipeline.faces import dataset_of


def packed(folder, letters: str, labels: list[int], names: list[str], **changes) -> Dataset:
    contents = [letter.encode() * 6000 for letter in letters]
    dataset = dataset_of(folder, contents, labels, num_identities=len(names), **changes)
    parquet.write_table(pa.table({"name": names}), dataset.path / IDENTITIES)
    return dataset


@pytest.fixture
def first(tmp_path) -> Dataset:
    return packed(tmp_path / "first", "ABCDE", [1, 0, 1, 2, 0], ["ann", "bob", "cho"])


@pytest.fixture
def second(tmp_path) -> Dataset:
    return packed(tmp_path / "second", "xyz", [0, 1, 1], ["eve", "bob"])


def read_all(dataset: Dataset) -> list[tuple[str, int]]:
    reader = ShardReader(dataset, max_open=2)
    faces = [reader.read(sample) for sample in range(dataset.num_samples)]
    reader.close()
    return [(chr(face.content[0]), face.label) for face in faces]


def test_separate_labels_follow_each_other_and_have_edges(first, second):
    whole = mix([first, second], labels="separate")
    assert read_all(whole) == [*read_all(first), ("x", 3), ("y", 4), ("z", 4)]
    assert whole.num_identities == 5
    assert whole.label_edges == (0, 3, 5)
    assert whole.identity_names() == ["ann", "bob", "cho", "eve", "bob"]
    assert whole.images_per_identity().tolist() == [2, 2, 1, 1, 2]
    assert whole.shard_sizes == (*first.shard_sizes, *second.shard_sizes)


def test_disjoint_labels_are_the_same_numbers_without_edges(first, second):
    whole = mix([first, second], labels="disjoint")
    assert read_all(whole) == read_all(mix([first, second], labels="separate"))
    assert whole.label_edges is None


def test_shared_labels_are_one_where_names_are(first, second):
    whole = mix([first, second], labels="shared")
    assert read_all(whole) == [*read_all(first), ("x", 3), ("y", 1), ("z", 1)]
    assert whole.identity_names() == ["ann", "bob", "cho", "eve"]
    assert whole.label_edges is None


def test_subsets_can_be_mixed_and_mixtures_can_be_cut(first, second):
    whole = mix([subset(first, np.array([1])), second], labels="separate")
    assert read_all(whole) == [("A", 0), ("C", 0), ("x", 1), ("y", 2), ("z", 2)]
    assert read_all(subset(whole, np.array([0, 2]))) == [("A", 0), ("C", 0), ("y", 1), ("z", 1)]


def test_a_label_that_does_not_exist_does_not_become_somebody_elses(tmp_path, second):
    broken = packed(tmp_path / "broken", "AB", [0, 1], ["ann"])
    reader = ShardReader(mix([broken, second], labels="disjoint"), max_open=1)
    assert reader.read(0).label == 0
    with pytest.raises(BadSampleError) as caught:
        reader.read(1)
    assert caught.value.reason == "label"
    assert reader.read(2).label == 1
    reader.close()


def test_images_have_a_size_only_where_all_agree(tmp_path, first, second):
    assert mix([first, second], labels="shared").image_size == (32, 32)
    other = packed(tmp_path / "other", "o", [0], ["oli"], image_size=(64, 64))
    assert mix([first, other], labels="shared").image_size is None


def test_verifying_verifies_every_part(first, second):
    whole = mix([first, second], labels="disjoint")
    whole.verify()
    assert len(whole.files()) == len(whole.local_files()) == 3 * len(whole.shards)
    tar = second.path / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[::-1])
    with pytest.raises(DataError, match=r"second.*shard-000000\.tar is damaged"):
        whole.verify()


def test_mixing_nothing_is_refused():
    with pytest.raises(DataError, match="nothing to mix"):
        mix([], labels="disjoint")
