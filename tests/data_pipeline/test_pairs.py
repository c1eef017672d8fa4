import json
from dataclasses import asdict

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.index import file_of
from data_pipeline.pack import pack
from data_pipeline.pairs import PairSet, pack_drawn_pairs, pack_pairs
from tests.data_pipeline.pictures import MemorySource, contents, jpeg, people, write_folder

FACES = {
    (person, f"{person}_{k:04d}.jpg"): jpeg(100 * p + k)
    for p, person in enumerate(("Ann", "Bob", "Eve"))
    for k in (1, 2, 3)
}
TEXT = "1\t2\nAnn\t1\t2\nBob\t3\t1\nAnn\t1\tBob\t1\nEve\t2\tBob\t3\n"


def image_bytes(dataset, sample):
    (shard,) = dataset.shards
    record = dataset.members(0)[sample]
    tar = (dataset.path / f"{shard.name}.tar").read_bytes()
    return tar[record["offset"] : record["offset"] + record["size"]]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "pairs.txt").write_text(TEXT)
    return write_folder(tmp_path / "faces", FACES)


def test_each_pair_of_the_file_leads_to_its_two_images(tmp_path, source):
    pairs = pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set")
    expected = [
        ("Ann", 1, "Ann", 2),
        ("Bob", 3, "Bob", 1),
        ("Ann", 1, "Bob", 1),
        ("Eve", 2, "Bob", 3),
    ]
    for i, (a, m, b, n) in enumerate(expected):
        assert image_bytes(pairs.dataset, pairs.first[i]) == FACES[a, f"{a}_{m:04d}.jpg"]
        assert image_bytes(pairs.dataset, pairs.second[i]) == FACES[b, f"{b}_{n:04d}.jpg"]
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [0, 1, 0, 1]


def test_only_the_images_of_pairs_are_packed_and_each_once(tmp_path, source):
    pairs = pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set")
    assert pairs.dataset.num_samples == 5
    assert pairs.dataset.num_identities == 3


def test_a_set_opens_as_it_was_packed_and_is_covered_by_verify(tmp_path, source):
    packed = pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set")
    opened = PairSet.open(tmp_path / "set")
    for name in ("first", "second", "same", "fold"):
        assert np.array_equal(getattr(opened, name), getattr(packed, name))
    opened.dataset.verify()
    file = tmp_path / "set" / "pairs.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"pairs.parquet is damaged: its sha256"):
        opened.dataset.verify()


def test_the_same_input_gives_the_same_bytes(tmp_path, source):
    for name in ("a", "b"):
        pack_pairs(source, tmp_path / "pairs.txt", tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_missing_image_is_named_with_its_line_and_nothing_is_left(tmp_path, source):
    (source / "Eve" / "Eve_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"pairs.txt, line 5: image 2 of 'Eve' in .*: no such file"):
        pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_an_unreadable_image_fails_the_set_however_few_there_are(tmp_path, source):
    (source / "Eve" / "Eve_0002.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"1 of 5 images cannot be read.*Eve/Eve_0002.jpg: not an"):
        pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.partial").exists()


def test_drawn_pairs_are_packed_with_all_images_of_their_source(tmp_path):
    source = people({f"person {i}": 4 for i in range(20)})
    pairs = pack_drawn_pairs(source, tmp_path / "set", num_pairs=80, folds=5, seed=3)
    assert pairs.dataset.num_samples == 80
    assert pairs.same.sum() == 40
    assert np.bincount(pairs.fold).tolist() == [16] * 5
    labels = pairs.dataset.labels()
    assert np.array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)


def test_pairs_that_cannot_be_drawn_leave_nothing(tmp_path):
    with pytest.raises(DataError, match="needs 1 same pairs"):
        pack_drawn_pairs(people({f"p{i}": 1 for i in range(20)}), tmp_path / "set", num_pairs=20)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_pairs_says_how_to_make_a_set(tmp_path):
    pack(MemorySource(FACES), tmp_path / "faces")
    with pytest.raises(DataError, match=r"is a dataset without pairs; make .*facescale data pairs"):
        PairSet.open(tmp_path / "faces")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": [0, 1, 2, 99]}, "names samples that do not exist"),
        ({"first": [-1, 1, 2, 3]}, "names samples that do not exist"),
        ({"same": [False, True, True, True]}, "contradicts the dataset's labels"),
        ({"other": [1, 2, 3, 4]}, "is damaged"),
    ],
)
def test_pairs_that_do_not_fit_the_dataset_are_refused(tmp_path, source, change, message):
    path = pack_pairs(source, tmp_path / "pairs.txt", tmp_path / "set").dataset.path
    columns = pyarrow.parquet.read_table(path / "pairs.parquet").to_pydict() | change
    if "other" in change:
        del columns["first"]
    pyarrow.parquet.write_table(pyarrow.table(columns), path / "pairs.parquet")
    index = json.loads((path / "index.json").read_text())
    index["extras"]["pairs.parquet"] = asdict(file_of(path / "pairs.parquet"))
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=message):
        PairSet.open(path)
