import json

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.index import Dataset, describe
from data_pipeline.pack import pack
from tests.data_pipeline.pictures import people


@pytest.fixture
def packed(tmp_path):
    """Nine samples of three people in three shards."""
    return pack(people({"ann": 4, "bob": 4, "eve": 1}), tmp_path / "faces", shard_bytes=8_000)


def edit_index(dataset, change):
    path = dataset.path / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(dataset):
    """The one line with which opening the dataset is refused."""
    with pytest.raises(DataError) as caught:
        Dataset.open(dataset.path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_opened_dataset_equals_the_one_that_was_packed(packed):
    assert Dataset.open(str(packed.path)) == packed
    assert packed.num_samples == 9
    assert packed.num_identities == 3
    assert packed.image_size == (16, 16)
    assert len(packed.shards) > 1
    assert sum(packed.shard_sizes) == 9
    assert [s.first_sample for s in packed.shards] == [
        *np.cumsum((0, *packed.shard_sizes))[:-1].tolist()
    ]
    packed.verify()


def test_labels_are_those_of_the_members_in_order(packed):
    labels = packed.labels()
    assert labels.dtype == np.int64
    assert sorted(np.bincount(labels).tolist()) == [1, 4, 4]
    assert labels[packed.shards[1].first_sample] == packed.members(1)["label"][0]


def test_a_dataset_describes_itself(packed):
    said = describe(packed)
    assert json.loads(json.dumps(said)) == said
    assert said["samples"] == 9
    assert said["identities"] == 3
    assert said["images_per_identity"] == {"min": 1, "median": 4.0, "max": 4}
    assert said["identities_with_one_image"] == 1
    assert said["image_size"] == [16, 16]
    assert said["shards"] == len(packed.shards)
    assert said["bytes"] == sum(
        (packed.path / f"{s.name}.tar").stat().st_size for s in packed.shards
    )


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no dataset at .*nowhere: the folder does not"):
        Dataset.open(tmp_path / "nowhere")


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"is not a packed dataset.*facescale data pack"):
        Dataset.open(tmp_path)


def test_a_truncated_tar_is_named_with_both_sizes(packed):
    tar = packed.path / "shard-000001.tar"
    size = tar.stat().st_size
    with tar.open("r+b") as stream:
        stream.truncate(size // 2)
    assert f"{tar} is cut: {size // 2} bytes, not the {size}" in refusal(packed)


def test_a_tar_that_grew_is_refused(packed):
    with (packed.path / "shard-000000.tar").open("ab") as stream:
        stream.write(b"more")
    assert "shard-000000.tar is changed" in refusal(packed)


@pytest.mark.parametrize("name", ["shard-000001.members", "shard-000000.idx", "identities.parquet"])
def test_a_missing_file_is_named(packed, name):
    (packed.path / name).unlink()
    assert f"{packed.path / name} is missing" in refusal(packed)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_index_is_refused(packed, share):
    path = packed.path / "index.json"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    assert "index.json is cut or damaged" in refusal(packed)


def test_an_unknown_version_is_refused_with_both_numbers(packed):
    edit_index(packed, lambda content: content.update(version=7))
    assert "format version 7; this facescale reads version 1" in refusal(packed)


def test_another_json_file_is_not_taken_for_an_index(packed):
    (packed.path / "index.json").write_text('["something"]')
    assert "does not describe a packed dataset" in refusal(packed)


def _set(content, *keys, to):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = to


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("num_samples",), 10, "its shards hold 9 samples, not 10"),
        (("num_samples",), "9", "'9' where a count"),
        (("num_identities",), 0, "0 where a count of at least 1"),
        (("num_identities",), True, "True where a count"),
        (("image_size",), [112], "index.json is damaged"),
        (("shards", 0, "samples"), 1, "not as many records"),
        (("shards", 0, "name"), "../outside", "'../outside' is no file name"),
        (("shards", 0, "name"), "/etc/passwd", "'/etc/passwd' is no file name"),
        (("shards", 1, "name"), "shard-000000", "two shards have one name"),
        (("shards", 0, "tar"), None, "index.json is damaged"),
        (("shards", 0), {}, "no 'name'"),
        (("shards",), [], "its shards hold 0 samples"),
        (("extras",), {"../../x": {"bytes": 1, "sha256": ""}}, "'../../x' is no file name"),
    ],
)
def test_an_index_with_a_wrong_value_is_refused(packed, keys, value, message):
    edit_index(packed, lambda content: _set(content, *keys, to=value))
    assert message in refusal(packed)


def test_a_label_outside_the_range_is_found_when_labels_are_read(packed):
    edit_index(packed, lambda content: content.update(num_identities=2))
    with pytest.raises(DataError, match=r"has label 2, but index.json counts 2 identities"):
        Dataset.open(packed.path).labels()


def test_changed_records_are_refused_when_they_are_read(packed):
    path = packed.path / "shard-000000.members"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000000.members is damaged"):
        Dataset.open(packed.path).members(0)


def test_verify_finds_one_flipped_bit_that_opening_does_not(packed):
    path = packed.path / "shard-000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000001.tar is damaged: its sha256"):
        Dataset.open(packed.path).verify()
