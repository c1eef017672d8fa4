import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.index import describe
from data_pipeline.pack import pack
from data_pipeline.sources.folder import FolderSource
from tests.data_pipeline.pictures import (
    MemorySource,
    contents,
    encoded,
    jpeg,
    people,
    pixels,
    write_folder,
)

SHARD_BYTES = 20_000  # a few of our small images


def samples_of(dataset):
    """(label, image bytes) of every sample, read from the tars with the standard library."""
    samples = []
    for shard in dataset.shards:
        with tarfile.open(dataset.path / f"{shard.name}.tar") as tar:
            files = {m.name: stream.read() for m in tar if (stream := tar.extractfile(m))}
        for i in range(shard.samples):
            key = f"{shard.first_sample + i:09d}"
            samples.append((int(files.pop(f"{key}.cls")), files.pop(f"{key}.jpg")))
        assert not files
    return samples


def test_every_image_keeps_its_bytes_and_its_identity(tmp_path):
    source = people({"ann": 5, "bob": 9, "eve": 1})
    dataset = pack(source, tmp_path / "out", shard_bytes=SHARD_BYTES)
    names = dataset.identity_names()
    found = {content: names[label] for label, content in samples_of(dataset)}
    assert found == {content: identity for (identity, _), content in source.images.items()}
    assert len(dataset.shards) > 1
    assert [label for label, _ in samples_of(dataset)] == dataset.labels().tolist()


def test_the_records_point_at_the_images(tmp_path):
    dataset = pack(people({"ann": 5, "bob": 9}), tmp_path / "out", shard_bytes=SHARD_BYTES)
    expected = iter(samples_of(dataset))
    for index, shard in enumerate(dataset.shards):
        tar = (dataset.path / f"{shard.name}.tar").read_bytes()
        for offset, size, _, label in dataset.members(index).tolist():
            assert (label, tar[offset : offset + size]) == next(expected)


def test_shards_stay_below_their_size(tmp_path):
    dataset = pack(people({"ann": 40}), tmp_path / "out", shard_bytes=SHARD_BYTES)
    # tarfile fills archives up to its record of 10,240 bytes, with at least two empty blocks.
    assert max(shard.bytes for shard in dataset.shards) <= SHARD_BYTES + 10_240
    assert min(dataset.shard_sizes[:-1]) > 1


def test_an_image_larger_than_a_shard_gets_one_of_its_own(tmp_path):
    dataset = pack(people({"ann": 3}), tmp_path / "out", shard_bytes=1)
    assert dataset.shard_sizes == (1, 1, 1)


def test_the_same_source_gives_the_same_bytes_in_any_order_and_from_any_place(tmp_path):
    images = people({"ann": 5, "bob": 9, "eve": 1}).images
    turned = {key: images[key] for key in reversed(list(images))}
    pack(MemorySource(images), tmp_path / "a", shard_bytes=SHARD_BYTES)
    pack(MemorySource(turned), tmp_path / "b", shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    folders = [
        write_folder(tmp_path / f"source-{i}", given) for i, given in enumerate((images, turned))
    ]
    for folder in folders:
        pack(FolderSource.open(folder), tmp_path / f"{folder.name}-out", shard_bytes=SHARD_BYTES)
    assert contents(tmp_path / "source-0-out") == contents(tmp_path / "source-1-out")
    assert (
        contents(tmp_path / "a")["shard-000000.tar"]
        == (tmp_path / "source-0-out" / "shard-000000.tar").read_bytes()
    )


def test_several_workers_write_the_same_bytes(tmp_path):
    source = people({"ann": 40, "bob": 35, "eve": 30})
    pack(source, tmp_path / "alone", shard_bytes=SHARD_BYTES)
    pack(source, tmp_path / "shared", shard_bytes=SHARD_BYTES, workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "shared")


def test_labels_are_dense_and_their_order_is_random_but_for_the_seed(tmp_path):
    source = people({f"person {i:02d}": 1 for i in range(40)})
    first = pack(source, tmp_path / "a", seed=1)
    second = pack(source, tmp_path / "b", seed=2)
    assert sorted(first.labels().tolist()) == list(range(40))
    names = [first.identity_names(), second.identity_names(), [name for name, _ in source]]
    assert len({tuple(order) for order in names}) == 3
    assert {frozenset(order) for order in names} == {frozenset(names[0])}


def test_samples_are_shuffled_across_identities(tmp_path):
    dataset = pack(people({"ann": 50, "bob": 50}), tmp_path / "out")
    # Neighbours of one person: 49.5 of 99 expected, standard deviation 5; sorted would have 98.
    assert 25 < (np.diff(dataset.labels()) == 0).sum() < 75


def test_identities_are_listed_with_their_source_names_and_numbers_of_images(tmp_path):
    strange = "../../Zoë <b>\n Ω"
    dataset = pack(people({"ann": 2, strange: 3}), tmp_path / "out")
    table = pyarrow.parquet.read_table(dataset.path / "identities.parquet").to_pylist()
    assert [row["label"] for row in table] == [0, 1]
    assert {row["name"]: row["images"] for row in table} == {"ann": 2, strange: 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_dataset_of_different_image_sizes_has_no_single_one(tmp_path):
    images = {("ann", "1.jpg"): jpeg(1, 16), ("ann", "2.jpg"): jpeg(2, 24)}
    assert pack(MemorySource(images), tmp_path / "out").image_size is None


def test_other_formats_become_jpegs_and_are_counted(tmp_path):
    images = {("ann", "1.jpg"): jpeg(1), ("ann", "2.png"): encoded(pixels(2), "PNG")}
    dataset = pack(MemorySource(images), tmp_path / "out")
    assert dataset.source["encoded_again"] == 1
    again = next(content for _, content in samples_of(dataset) if content != images["ann", "1.jpg"])
    assert again[:2] == b"\xff\xd8"


def spoiled(counts, *bad):
    source = people(counts)
    return MemorySource(
        {
            key: content[: len(content) // 2] if key in bad else content
            for key, content in source.images.items()
        }
    )


def test_unreadable_images_are_left_out_counted_and_named(tmp_path):
    source = spoiled({"ann": 5, "bob": 5}, ("ann", "3.jpg"))
    dataset = pack(source, tmp_path / "out", max_unreadable=0.1)
    assert dataset.num_samples == 9
    assert dataset.source["unreadable_images"] == 1
    assert dataset.source["listed_images"] == 10
    assert dataset.source["ignored_files"] == 2  # what the source itself passed over
    (line,) = dataset.unreadable
    assert line.startswith("ann/3.jpg: cut or damaged")
    assert describe(dataset)["unreadable"] == [line]


def test_too_many_unreadable_images_fail_with_their_names_and_leave_nothing(tmp_path):
    source = spoiled({"ann": 5, "bob": 5}, ("ann", "3.jpg"), ("bob", "1.jpg"))
    with pytest.raises(DataError) as caught:
        pack(source, tmp_path / "out", max_unreadable=0.1)
    message = str(caught.value)
    assert "2 of 10 images cannot be read, more than the allowed share of 0.1" in message
    assert "ann/3.jpg: cut" in message
    assert "bob/1.jpg: cut" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_twenty_are_named(tmp_path):
    bad = [("ann", f"{k}.jpg") for k in range(30)]
    with pytest.raises(DataError, match=r"30 of 40 images .*; and 10 more$") as caught:
        pack(spoiled({"ann": 40}, *bad), tmp_path / "out")
    assert str(caught.value).count("ann/") == 20
    dataset = pack(spoiled({"ann": 40}, *bad), tmp_path / "out", max_unreadable=0.9)
    assert len(dataset.unreadable) == 20


def test_nothing_readable_fails_whatever_share_is_allowed(tmp_path):
    with pytest.raises(DataError, match="2 of 2 images cannot be read"):
        pack(
            spoiled({"ann": 2}, ("ann", "0.jpg"), ("ann", "1.jpg")),
            tmp_path / "out",
            max_unreadable=1.0,
        )


def test_a_source_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        pack(MemorySource({}), tmp_path / "out")


def test_labels_stay_dense_when_an_identity_loses_all_its_images(tmp_path):
    names = {f"person {i}": 3 for i in range(8)}
    lost = [("person 2", f"{k}.jpg") for k in range(3)]
    dataset = pack(
        spoiled(names, *lost), tmp_path / "out", max_unreadable=0.2, shard_bytes=SHARD_BYTES
    )
    whole = pack(people(names), tmp_path / "whole", shard_bytes=SHARD_BYTES)
    assert dataset.identity_names() == [n for n in whole.identity_names() if n != "person 2"]
    assert np.bincount(dataset.labels()).tolist() == [3] * 7
    dataset.verify()
    by_content = {content: label for label, content in samples_of(dataset)}
    for (name, _), content in people(names).images.items():
        if name != "person 2":
            assert dataset.identity_names()[by_content[content]] == name
    assert len(contents(dataset.path)) == 2 + 3 * len(dataset.shards)


def test_one_image_an_identity_is_allowed_and_reported(tmp_path):
    dataset = pack(people({"ann": 1, "bob": 1, "eve": 2}), tmp_path / "out")
    assert dataset.source["single_image_identities"] == 2
    assert describe(dataset)["identities_with_one_image"] == 2


def test_an_existing_destination_is_refused_and_untouched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(DataError, match="out exists already and is left as it is"):
        pack(people({"ann": 1}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"precious": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_goes_to_a_terminal_and_only_when_asked_for(tmp_path, capsys, monkeypatch):
    pack(people({"ann": 2}), tmp_path / "piped", show_progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pack(people({"ann": 2}), tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    pack(people({"ann": 2}), tmp_path / "loud", show_progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "packing: 100%" in err


def test_the_reader_of_dali_reads_our_shards_with_our_index(tmp_path):
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    dataset = pack(people({"ann": 6, "bob": 5}), tmp_path / "out", shard_bytes=SHARD_BYTES)
    paths = [dataset.path / shard.name for shard in dataset.shards]

    pipeline: Any = Pipeline(batch_size=11, num_threads=1, device_id=None)  # its stubs lag behind
    with pipeline:
        outputs: Any = fn.readers.webdataset(
            paths=[f"{path}.tar" for path in paths],
            index_paths=[f"{path}.idx" for path in paths],
            ext=["jpg", "cls"],
        )
        pipeline.set_outputs(*outputs)
    pipeline.build()
    images, labels = pipeline.run()
    read = [(int(bytes(labels.at(i))), bytes(images.at(i))) for i in range(dataset.num_samples)]
    assert read == samples_of(dataset)


def test_our_index_is_the_one_that_wds2idx_makes(tmp_path):
    from wds2idx import IndexCreator

    dataset = pack(people({"ann": 6, "bob": 5}), tmp_path / "out", shard_bytes=SHARD_BYTES)
    for shard in dataset.shards:
        with IndexCreator(
            str(dataset.path / f"{shard.name}.tar"), str(tmp_path / "theirs"), verbose=False
        ) as creator:
            creator.create_index()
        ours = (dataset.path / f"{shard.name}.idx").read_text()
        assert ours == (tmp_path / "theirs").read_text()


def test_the_reader_of_webdataset_reads_our_shards(tmp_path):
    from webdataset.tariterators import group_by_keys, tar_file_expander

    dataset = pack(people({"ann": 3, "bob": 2}), tmp_path / "out")
    with (dataset.path / "shard-000000.tar").open("rb") as stream:
        read = list(group_by_keys(tar_file_expander([{"url": "", "stream": stream}])))
    assert [(int(sample["cls"]), sample["jpg"]) for sample in read] == samples_of(dataset)


SLOW_PACK = """
import os, sys, time
from data_pipeline.sources.folder import FolderSource

class Slow(FolderSource):
    def read(self, identity, image):
        os.write(1, b"reading\\n")
        time.sleep(0.05)
        return super().read(identity, image)

if __name__ == "__main__":
    from data_pipeline.pack import pack
    pack(Slow.open(sys.argv[1]), sys.argv[2], shard_bytes=20_000, workers=2)
"""


def test_a_pack_killed_in_the_middle_leaves_no_half_dataset_and_is_finished_by_the_next(tmp_path):
    source = write_folder(tmp_path / "faces", people({"ann": 100, "bob": 100}).images)
    script = tmp_path / "slow.py"
    script.write_text(SLOW_PACK)
    dest = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, script, source, dest],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for _ in range(80):  # two chunks and a bit: some images are written, others in work
            assert process.stdout.readline() == b"reading\n"
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends when the workers have ended too, which held it open
    assert process.returncode == -signal.SIGKILL
    assert not dest.exists()
    assert (tmp_path / "out.partial").exists()
    dataset = pack(FolderSource.open(source), dest, shard_bytes=SHARD_BYTES)
    dataset.verify()
    assert dataset.num_samples == 200
    assert not (tmp_path / "out.partial").exists()


class _Heavy(MemorySource):
    """Every image is a fresh copy, as if read from a disk."""

    def read(self, identity, image):
        return bytes(bytearray(self.images["", ""]))

    def __iter__(self):
        return iter([("ann", f"{k}.jpg") for k in range(200)])


def test_memory_does_not_grow_with_the_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    source = _Heavy({("", ""): encoded(noise, quality=95, subsampling="4:4:4")})
    tracemalloc.start()
    dataset = pack(source, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = dataset.shards[0].bytes
    assert size > 20e6
    # One chunk of 32 images, the one before it, and small things: well below half of all 200.
    assert peak < size / 2
