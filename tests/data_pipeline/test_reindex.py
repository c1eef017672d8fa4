"""Tars that exist already become a dataset without being copied."""

import io
import json
import os
import tarfile
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import pack
from data_pipeline.reindex import reindex, tars_of
from data_pipeline.shards import ShardReader
from tests.data_pipeline.pictures import contents, encoded, jpeg, people, pixels


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(key, label, content=None):
    return [
        (f"{key}.jpg", content or jpeg(crc32(key.encode()) % 99)),
        (f"{key}.cls", str(label).encode()),
    ]


def two_tars(folder):
    write_tar(folder / "train-0.tar", [*sample("x/one", 7), *sample("x/two", 40)])
    write_tar(folder / "train-1.tar", [*sample("x/three", 7), *sample("x/four", 9)])
    return folder


def images(dataset):
    reader = ShardReader(dataset, max_open=2)
    found = [reader.read(number) for number in range(dataset.num_samples)]
    reader.close()
    return found


def test_every_image_is_read_from_where_it_lies_with_a_dense_label(tmp_path):
    dataset = reindex(tars_of(str(two_tars(tmp_path / "tars"))), tmp_path / "index")
    keys = ("x/one", "x/two", "x/three", "x/four")
    assert [face.content for face in images(dataset)] == [
        jpeg(crc32(key.encode()) % 99) for key in keys
    ]
    assert dataset.labels().tolist() == [0, 2, 0, 1]
    assert dataset.identity_names() == ["7", "9", "40"]
    assert dataset.images_per_identity().tolist() == [2, 1, 1]
    assert dataset.image_size == (16, 16)
    assert dataset.source == {"tars": 2, "single_image_identities": 2}
    assert not list((tmp_path / "index").glob("*.tar"))
    dataset.verify()


def test_beside_the_tars_the_index_needs_no_addresses_and_can_be_moved_with_them(tmp_path):
    folder = two_tars(tmp_path / "tars")
    reindex(tars_of(str(folder)), folder)
    moved = folder.rename(tmp_path / "moved")
    dataset = Dataset.open(moved)
    assert [shard.location for shard in dataset.shards] == [None, None]
    assert len(images(dataset)) == 4
    assert not [path for path in moved.iterdir() if path.is_dir()]


def test_beside_tars_of_odd_names_only_the_names_of_files_are_kept(tmp_path):
    write_tar(tmp_path / "part.0.tar", sample("a", 0))
    write_tar(tmp_path / "part.1.tar", sample("b", 1))
    dataset = reindex(tars_of(str(tmp_path)), tmp_path)
    assert [(s.name, s.location) for s in dataset.shards] == [
        ("shard-000000", "part.0.tar"),
        ("shard-000001", "part.1.tar"),
    ]


def test_a_file_in_the_way_is_left_and_named(tmp_path):
    folder = two_tars(tmp_path / "tars")
    (folder / "train-1.idx").write_text("mine")
    before = contents(folder)
    with pytest.raises(DataError, match=r"train-1.idx exists already"):
        reindex(tars_of(str(folder)), folder)
    assert contents(folder) == before


def test_the_index_of_our_own_shards_has_their_records_and_labels(tmp_path):
    packed = pack(people({"ann": 4, "bob": 4, "eve": 1}), tmp_path / "packed", shard_bytes=8_000)
    again = reindex(tars_of(str(packed.path)), tmp_path / "again")
    assert again.shard_sizes == packed.shard_sizes
    for index, shard in enumerate(packed.shards):
        assert again.members(index).tobytes() == packed.members(index).tobytes()
        assert again.shards[index].tar == shard.tar


def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    tars = tars_of(str(two_tars(tmp_path / "tars")))
    one = reindex(tars, tmp_path / "one", workers=1)
    two = reindex(tars, tmp_path / "two", workers=2)
    assert contents(one.path) == contents(two.path)


def test_names_as_labels_are_numbered_in_their_order(tmp_path):
    members = [*sample("a", "Zoe"), *sample("b", "Ann"), *sample("c", "10")]
    write_tar(tmp_path / "t.tar", members)
    dataset = reindex(tars_of(str(tmp_path / "t.tar")), tmp_path / "index")
    assert dataset.identity_names() == ["10", "Ann", "Zoe"]
    assert dataset.labels().tolist() == [2, 1, 0]


@pytest.mark.parametrize("told", [{"label": 3}, {"identity": "3"}, 3, "3", {"cls": 3, "x": [1]}])
def test_a_label_may_be_told_in_json(tmp_path, told):
    write_tar(tmp_path / "t.tar", [("a.jpg", jpeg(0)), ("a.json", json.dumps(told).encode())])
    dataset = reindex(tars_of(str(tmp_path)), tmp_path / "index")
    assert dataset.identity_names() == ["3"]


def test_png_and_webp_and_turned_images_are_taken_with_their_size_as_shown(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    members = [
        ("a.png", encoded(pixels(0)[:8], "PNG")),
        ("a.cls", b"0"),
        ("b.webp", encoded(pixels(1)[:8], "WEBP")),
        ("b.cls", b"0"),
        ("c.JPEG", encoded(Image.fromarray(pixels(2)[:, :8]), exif=turned)),
        ("c.cls", b"0"),
    ]
    write_tar(tmp_path / "t.tar", members)
    dataset = reindex(tars_of(str(tmp_path)), tmp_path / "index")
    assert dataset.image_size == (8, 16)
    assert dataset.num_samples == 3


BAD = {
    "no_label": [("a.jpg", jpeg(0))],
    "no_image": [("a.cls", b"1")],
    "several_images": [*sample("a", 1), ("a.png", encoded(pixels(0), "PNG"))],
    "repeated_member": [*sample("a", 1), ("a.jpg", jpeg(0))],
    "bad_label": [("a.jpg", jpeg(0)), ("a.cls", b"\xff\xfe")],
    "negative_label": [("a.jpg", jpeg(0)), ("a.cls", b"-1")],
    "not_an_image": [("a.jpg", b"GIF89a no"), ("a.cls", b"1")],
    "too_large": [("a.png", encoded(Image.new("1", (5000, 5000)), "PNG")), ("a.cls", b"1")],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_sample_that_cannot_be_used_is_left_out_counted_and_named(tmp_path, reason):
    write_tar(tmp_path / "t.tar", [*BAD[reason], *sample("good", 5)])
    dataset = reindex(tars_of(str(tmp_path)), tmp_path / "index", max_unreadable=0.5)
    assert dataset.num_samples == 1
    assert dataset.identity_names() == ["5"]
    assert dataset.source[reason] == 1
    assert dataset.unreadable == (f"t.tar: 'a': {reason}",)
    with pytest.raises(DataError, match=f"1 of 2 samples cannot be used.*1 {reason}"):
        reindex(tars_of(str(tmp_path)), tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_what_is_no_sample_is_passed_over_and_counted(tmp_path):
    members = [("README", b"hello"), *sample("a", 1), ("a.txt", b"about"), ("dir/.hidden", b"")]
    write_tar(tmp_path / "t.tar", members)
    dataset = reindex(tars_of(str(tmp_path)), tmp_path / "index")
    assert dataset.source["other_members"] == 3


def test_a_tar_without_samples_has_no_shard(tmp_path):
    write_tar(tmp_path / "a.tar", [("README", b"hello")])
    write_tar(tmp_path / "b.tar", sample("a", 1))
    assert [s.name for s in reindex(tars_of(str(tmp_path)), tmp_path).shards] == ["b"]


def test_a_cut_tar_is_named_and_nothing_is_left_behind(tmp_path):
    folder = two_tars(tmp_path / "tars")
    content = (folder / "train-1.tar").read_bytes()
    (folder / "train-1.tar").write_bytes(content[:1500])
    with pytest.raises(DataError, match=r"train-1.tar: it is cut"):
        reindex(tars_of(str(folder)), tmp_path / "index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tars"]


def test_a_list_has_addresses_and_paths_relative_to_itself(tmp_path):
    two_tars(tmp_path / "tars")
    listed = tmp_path / "list.txt"
    second = Address.of_file(tmp_path / "tars/train-0.tar")
    listed.write_text(f"# ours\ntars/train-1.tar\n\n{second}\n")
    dataset = reindex(tars_of(str(listed)), tmp_path / "index")
    assert [shard.name for shard in dataset.shards] == ["train-1", "train-0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tars/train-0.tar\ntars/../tars/train-0.tar\n", "names a tar twice"),
        ("pipe:cat /etc/passwd\n", "line 1: the address"),
        ("# none\n", "has no .tar files"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path, text, message):
    two_tars(tmp_path / "tars")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        tars_of(str(tmp_path / "list.txt"))


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing does not exist"):
        tars_of(str(tmp_path / "nothing"))


def test_a_tar_that_changed_after_it_was_indexed_is_noticed_on_opening(tmp_path):
    folder = two_tars(tmp_path / "tars")
    reindex(tars_of(str(folder)), tmp_path / "index")
    with (folder / "train-0.tar").open("ab") as tar:
        tar.write(b"more")
    with pytest.raises(DataError, match=r"train-0.tar is changed"):
        Dataset.open(tmp_path / "index")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../outside.tar", "no file name"),
        ("/etc/passwd", "no file name"),
        ("pipe:id", "is not opened"),
        ("s3://key:secret@bucket/a.tar", "name or password"),
        (7, "no file name"),
    ],
)
def test_an_index_that_sends_readers_elsewhere_is_refused(tmp_path, location, message):
    reindex(tars_of(str(two_tars(tmp_path / "tars"))), tmp_path / "index")
    path = tmp_path / "index/index.json"
    content = json.loads(path.read_text())
    content["shards"][0]["location"] = location
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(tmp_path / "index")
    assert "secret" not in str(caught.value)


def test_a_tar_that_became_a_pipe_is_refused_and_not_waited_for(tmp_path):
    folder = two_tars(tmp_path / "tars")
    reindex(tars_of(str(folder)), tmp_path / "index")
    (folder / "train-0.tar").unlink()
    os.mkfifo(folder / "train-0.tar")
    with pytest.raises(DataError, match="is no regular file"):
        Dataset.open(tmp_path / "index")
    with pytest.raises(DataError, match="is not there"):
        reindex(tars_of(str(folder)), tmp_path / "again")


def test_labels_that_are_dense_already_stay_as_they_are(tmp_path):
    labels = np.random.default_rng(0).permutation(30) % 12
    members = [part for key, label in enumerate(labels) for part in sample(f"{key:02d}", label)]
    write_tar(tmp_path / "t.tar", members)
    assert reindex(tars_of(str(tmp_path)), tmp_path / "i").labels().tolist() == labels.tolist()
