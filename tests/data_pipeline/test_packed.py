"""A dataset can be packed once more, from wherever its tars lie."""

import pickle

import pytest

from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.reindex import reindex, tars_of
from data_pipeline.shards import ShardReader
from data_pipeline.sources.opening import open_source
from data_pipeline.sources.packed import PackedSource
from tests.data_pipeline.faces import flip_byte
from tests.data_pipeline.pictures import people


@pytest.fixture
def packed(tmp_path):
    return pack(people({"ann": 4, "bob": 4, "eve": 1}), tmp_path / "packed", shard_bytes=8_000)


def by_name(dataset):
    """The images of every identity, in no order."""
    names, labels = dataset.identity_names(), dataset.labels()
    reader = ShardReader(dataset, max_open=2)
    found = {(names[labels[k]], reader.read(k).content) for k in range(dataset.num_samples)}
    reader.close()
    return found


def test_packing_indexed_tars_again_keeps_every_image_with_its_identity(tmp_path, packed):
    indexed = reindex(tars_of(str(packed.path)), tmp_path / "indexed")
    again = pack(PackedSource.open(indexed.path), tmp_path / "again", seed=5, workers=2)
    renamed = {str(label): name for label, name in enumerate(packed.identity_names())}
    assert {(renamed[name], content) for name, content in by_name(again)} == by_name(packed)
    assert again.source["earlier_tars"] == len(packed.shards)


def test_the_folder_of_a_dataset_is_opened_as_one(packed):
    assert open_source(packed.path) == PackedSource(dataset=packed)


def test_a_source_that_has_read_survives_pickling(packed):
    source = PackedSource.open(packed.path)
    images = list(source)
    assert [image for _, image in images] == [str(k) for k in range(9)]
    contents = [source.read(*image) for image in images]
    assert [pickle.loads(pickle.dumps(source)).read(*image) for image in images] == contents


def test_a_sample_whose_bytes_changed_is_unreadable_and_not_packed_again(packed):
    flip_byte(packed, 3)
    with pytest.raises(DataError, match="crc"):
        PackedSource.open(packed.path).read("ann", "3")
