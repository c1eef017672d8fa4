import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data_pipeline.errors import DataError
from data_pipeline.index import IDENTITIES, Dataset
from data_pipeline.shards import BadSampleError, ShardReader
from data_pipeline.subset import choose, read_names, subset
from tests.data_pipeline.faces import dataset_of

LABELS = [4, 0, 4, 2, 2, 4, 1, 0, 4]
CONTENTS = [bytes([65 + i]) * 6000 for i in range(len(LABELS))]
NAMES = ["ann", "bob", "cho", "dee", "eve"]


@pytest.fixture
def whole(tmp_path) -> Dataset:
    dataset = dataset_of(tmp_path / "d", CONTENTS, LABELS)
    parquet.write_table(pa.table({"name": NAMES}), dataset.path / IDENTITIES)
    assert len(dataset.shards) == 5  # two samples each
    return dataset


def read_all(dataset: Dataset) -> list[tuple[str, int]]:
    reader = ShardReader(dataset, max_open=2)
    faces = [reader.read(sample) for sample in range(dataset.num_samples)]
    reader.close()
    return [(chr(face.content[0]), face.label) for face in faces]


def test_a_subset_is_the_chosen_identities_with_dense_labels_in_the_same_order(whole):
    part = subset(whole, np.array([4, 1]))
    assert read_all(part) == [("A", 1), ("C", 1), ("F", 1), ("G", 0), ("I", 1)]
    assert part.num_identities == 2
    assert part.identity_names() == ["bob", "eve"]
    assert part.labels().tolist() == [1, 1, 1, 0, 1]
    assert part.images_per_identity().tolist() == [1, 4]


def test_shards_without_a_chosen_identity_are_not_there(whole):
    part = subset(whole, np.array([1, 2]))
    assert part.shard_sizes == (1, 1, 1)
    assert [shard.first_sample for shard in part.shards] == [0, 1, 2]
    assert part.tar_of(0) == whole.path / "shard-000001.tar"


def test_a_subset_of_a_subset_and_of_all(whole):
    assert read_all(subset(whole, np.arange(5))) == read_all(whole)
    part = subset(subset(whole, np.array([0, 2, 4])), np.array([1]))
    assert part.identity_names() == ["cho"]
    assert read_all(part) == [("D", 0), ("E", 0)]


def test_verifying_a_subset_verifies_the_whole(whole):
    part = subset(whole, np.array([0]))
    part.verify()
    (whole.path / "shard-000002.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"shard-000002\.tar"):
        part.verify()


def test_samples_of_labels_that_do_not_exist_are_in_no_subset(tmp_path):
    dataset = dataset_of(tmp_path / "d", CONTENTS[:4], [0, 7, -1, 1], num_identities=2)
    reader = ShardReader(dataset, max_open=1)
    with pytest.raises(BadSampleError):
        reader.read(1)
    reader.close()
    assert read_all(subset(dataset, np.array([0, 1]))) == [("A", 0), ("D", 1)]


def test_identities_are_chosen_by_images_labels_and_names(whole):
    assert choose(whole).tolist() == [0, 1, 2, 3, 4]
    assert choose(whole, min_images=2).tolist() == [0, 2, 4]
    assert choose(whole, min_images=1, max_images=2).tolist() == [0, 1, 2]
    assert choose(whole, labels=range(1, 4)).tolist() == [1, 2, 3]
    assert choose(whole, only=["eve", "ann"]).tolist() == [0, 4]
    assert choose(whole, without=["eve", "not there"]).tolist() == [0, 1, 2, 3]
    assert choose(whole, only=["eve", "bob"], labels=range(3)).tolist() == [1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"only": ["bob", "zoe", "yan"]}, "has no identity 'yan'; 2 of 3 names"),
        ({"labels": range(2, 6)}, "has labels 0 to 4; 2 to 5 are not all among them"),
        ({"labels": range(-1, 2)}, "has labels 0 to 4"),
    ],
)
def test_choosing_what_is_not_there_is_refused(whole, how, message):
    with pytest.raises(DataError, match=message):
        choose(whole, **how)


def test_a_subset_of_nobody_is_refused(whole):
    with pytest.raises(DataError, match=r"nothing of .* is chosen"):
        subset(whole, np.array([], np.int64))
    with pytest.raises(DataError, match=r"none of the chosen identities of .* has an image"):
        subset(whole, np.array([3]))


def test_a_list_of_names_is_read_a_line_each(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("ann\n\n li na \neve", encoding="utf-8")
    assert read_names(path) == {"ann", " li na ", "eve"}
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        read_names(path)
    with pytest.raises(DataError, match="cannot read"):
        read_names(tmp_path / "missing.txt")
