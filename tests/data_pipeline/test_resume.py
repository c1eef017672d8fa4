"""Packs that are killed, damaged and repeated."""

import io
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from data_pipeline import packing
from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.sources.folder import FolderSource
from tests.data_pipeline.pictures import (
    MemorySource,
    contents,
    detailed,
    encoded,
    jpeg,
    people,
    write_folder,
)

SHARD_BYTES = 15_000  # about six of our small images

KILLED_PACK = """
import os, signal, sys
from data_pipeline.sources.folder import FolderSource

class Deadly(FolderSource):
    def read(self, identity, image):
        if f"{identity}/{image}" == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(identity, image)

if __name__ == "__main__":
    from data_pipeline.pack import pack
    pack(Deadly.open(sys.argv[1]), sys.argv[2], shard_bytes=int(sys.argv[4]), max_unreadable=0.1)
"""


class Interrupted:
    """Stops, as at Ctrl-C, instead of reading one image more; knows what it read before."""

    def __init__(self, images, stop_at=None):
        self.images = MemorySource(images)
        self.stop_at = stop_at
        self.read_names = []

    def __iter__(self):
        return iter(self.images)

    def read(self, identity, image):
        if len(self.read_names) == self.stop_at:
            raise KeyboardInterrupt
        self.read_names.append((identity, image))
        return self.images.read(identity, image)

    def counts(self):
        return self.images.counts()


def faces():
    """Some 60 images, of which one is unreadable, one doubled and one no JPEG."""
    images = dict(people({"ann": 25, "bob": 20, "eve": 15, "lost": 1}).images)
    images["lost", "0.jpg"] = b""
    images["eve", "again.jpg"] = images["eve", "3.jpg"]
    return images


OPTIONS: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "max_unreadable": 0.1, "repeated": "drop"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a pack that nobody disturbed."""
    dest = tmp_path_factory.mktemp("whole") / "out"
    pack(MemorySource(faces()), dest, **OPTIONS)
    return contents(dest)


def interrupt(dest, stop_at):
    with pytest.raises(KeyboardInterrupt):
        pack(Interrupted(faces(), stop_at), dest, **OPTIONS)


@pytest.mark.parametrize("stop_at", [0, 1, 20, 40, 61])
def test_a_pack_that_was_stopped_anywhere_gives_the_same_bytes(tmp_path, whole, stop_at):
    interrupt(tmp_path / "out", stop_at)
    pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_pack_that_is_stopped_again_and_again_gives_the_same_bytes(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 4)  # two of them are written each time
    read = []
    for _ in range(40):
        source = Interrupted(faces(), 9)
        try:
            pack(source, tmp_path / "out", **OPTIONS)
            break
        except KeyboardInterrupt:
            read += source.read_names
    assert contents(tmp_path / "out") == whole
    assert len(read) > len(faces())  # those of unfinished shards more than once


def test_images_of_finished_shards_are_not_read_again(tmp_path):
    interrupt(tmp_path / "out", 40)
    source = Interrupted(faces())
    pack(source, tmp_path / "out", **OPTIONS)
    # The first chunk of 32 was written, less than a shard of it (six images) in vain.
    assert len(source.read_names) <= len(faces()) - 32 + 6


def test_a_pack_stopped_before_its_first_shard_leaves_nothing(tmp_path):
    interrupt(tmp_path / "out", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_another_number_of_workers_may_go_on(tmp_path, whole, workers):
    interrupt(tmp_path / "out", 61)
    pack(MemorySource(faces()), tmp_path / "out", workers=workers, **OPTIONS)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "members", "trace", "journal"])
def test_damaged_shards_of_a_stopped_pack_are_packed_again(tmp_path, whole, damage):
    interrupt(tmp_path / "out", 61)
    dataset, scratch = (tmp_path / "out.partial" / name for name in ("dataset", "scratch"))
    path = {
        "members": dataset / "shard-000001.members",
        "trace": scratch / "shard-000001.trace",
        "journal": scratch / "journal.jsonl",
    }.get(damage, dataset / "shard-000001.tar")
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage in ("cut", "journal"):
        path.write_bytes(content[:-20])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (dataset / "shard-000099.tar").write_bytes(b"half")
    pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("line", [0, 1, -1])
def test_a_journal_with_any_byte_changed_never_gives_another_dataset(tmp_path, whole, line):
    interrupt(tmp_path / "out", 61)
    journal = tmp_path / "out.partial" / "scratch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    digit = re.search(rb"\d", lines[line][-40:])
    assert digit is not None
    place = len(lines[line]) - 40 + digit.start()
    changed = bytearray(lines[line])
    changed[place] = ord("7") if changed[place] != ord("7") else ord("8")
    lines[line] = bytes(changed)
    journal.write_bytes(b"".join(lines))
    if line == 0:
        with pytest.raises(DataError, match="but of what cannot be read"):
            pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    pack(MemorySource(faces()), tmp_path / "out", restart=line == 0, **OPTIONS)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 4}, "seed 0, not 4"), ({"shard_bytes": 9_000}, "shard_bytes 15000, not 9000")],
)
def test_other_options_do_not_go_on_unless_told_to_restart(tmp_path, whole, change, message):
    interrupt(tmp_path / "out", 61)
    before = contents(tmp_path / "out.partial" / "dataset")
    with pytest.raises(DataError, match=rf"unfinished pack of {message}; .* `--restart`") as caught:
        pack(MemorySource(faces()), tmp_path / "out", **OPTIONS | change)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "out.partial" / "dataset") == before
    pack(MemorySource(faces()), tmp_path / "out", **OPTIONS | change, restart=True)
    assert contents(tmp_path / "out") != whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_source_does_not_go_on(tmp_path):
    interrupt(tmp_path / "out", 61)
    images = faces() | {("new", "1.jpg"): jpeg(999)}
    with pytest.raises(DataError, match="unfinished pack of another source"):
        pack(MemorySource(images), tmp_path / "out", **OPTIONS)


def test_too_many_unreadable_images_may_be_allowed_afterwards(tmp_path, whole):
    with pytest.raises(DataError, match="1 of 62 images cannot be read"):
        pack(MemorySource(faces()), tmp_path / "out", shard_bytes=SHARD_BYTES, max_unreadable=0.0)
    source = Interrupted(faces())
    pack(source, tmp_path / "out", **OPTIONS)
    assert len(source.read_names) < 10  # the last shard's alone
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_is_one_line_and_the_pack_goes_on_later(tmp_path, whole, monkeypatch):
    def full(self, *args, **kwargs):
        if len(self.shards) == 3:
            raise OSError(28, os.strerror(28))
        return add(self, *args, **kwargs)

    add = ShardWriter.add
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", full)
        with pytest.raises(DataError, match=r"No space left on device; make room and repeat"):
            pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == whole


def test_a_pack_that_is_killed_at_any_image_gives_the_same_bytes(tmp_path):
    images = {name: content for name, content in faces().items() if content}
    source = write_folder(tmp_path / "faces", images)
    options: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "max_unreadable": 0.1}
    pack(FolderSource.open(source), tmp_path / "whole", **options)
    script = tmp_path / "killed.py"
    script.write_text(KILLED_PACK)
    for attempt, name in enumerate(random.Random(1).sample(sorted(images), 2)):
        dest = tmp_path / f"out-{attempt}"
        process = subprocess.run(
            [sys.executable, script, source, dest, "/".join(name), str(SHARD_BYTES)],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert process.returncode == -signal.SIGKILL
        assert not dest.exists()
        assert dest.with_name(f"{dest.name}.partial").exists()
        pack(FolderSource.open(source), dest, **options)
        assert contents(dest) == contents(tmp_path / "whole")


class Deadly(MemorySource):
    """Ends the process that reads one of its images, as a lack of memory would."""

    def read(self, identity, image):
        if (identity, image) == ("eve", "7.jpg"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(identity, image)


def test_a_worker_that_dies_names_its_images_and_the_pack_goes_on_later(tmp_path, whole):
    with pytest.raises(DataError, match=r"a worker process .* fewer workers; or .*'eve/7.jpg'"):
        pack(Deadly(faces()), tmp_path / "out", workers=2, **OPTIONS)
    pack(MemorySource(faces()), tmp_path / "out", **OPTIONS)
    assert contents(tmp_path / "out") == whole


def test_equal_images_are_listed_by_name(tmp_path):
    images = faces() | {("bob", "stranger.jpg"): people({"ann": 25}).images["ann", "7.jpg"]}
    dataset = pack(
        MemorySource(images), tmp_path / "out", shard_bytes=SHARD_BYTES, max_unreadable=0.1
    )
    rows = pyarrow.parquet.read_table(dataset.path / "duplicates.parquet").to_pylist()
    assert {row["kind"] for row in rows} == {"bytes"}
    named = {
        frozenset((row[f"{w}_identity"], row[f"{w}_image"]) for w in ("first", "second")): row
        for row in rows
    }
    within = named[frozenset((("eve", "3.jpg"), ("eve", "again.jpg")))]
    across = named[frozenset((("ann", "7.jpg"), ("bob", "stranger.jpg")))]
    assert len(rows) == 2
    assert (within["same_identity"], across["same_identity"]) == (True, False)
    assert dataset.source["duplicates_within_identities"] == 1
    assert dataset.source["duplicates_across_identities"] == 1
    labels, names = dataset.labels(), dataset.identity_names()
    for row in rows:
        for which in ("first", "second"):
            assert names[labels[row[f"{which}_sample"]]] == row[f"{which}_identity"]
    dataset.verify()


def test_repeated_images_are_left_out_when_asked(tmp_path):
    images = faces()
    dataset = pack(MemorySource(images), tmp_path / "out", **OPTIONS)
    (row,) = pyarrow.parquet.read_table(dataset.path / "duplicates.parquet").to_pylist()
    assert row["second_sample"] is None
    assert dataset.identity_names()[dataset.labels()[row["first_sample"]]] == "eve"
    assert dataset.num_samples == len(images) - 2  # the repeated and the unreadable one
    assert dataset.source["duplicates_left_out"] == 1
    table = pyarrow.parquet.read_table(dataset.path / "identities.parquet").to_pylist()
    assert {row["name"]: row["images"] for row in table} == {"ann": 25, "bob": 20, "eve": 15}
    dataset.verify()


def test_images_that_look_the_same_are_listed_when_asked(tmp_path):
    names = [(person, f"{k}.jpg") for person in ("ann", "bob") for k in range(4)]
    images = {name: encoded(detailed(seed), quality=90) for seed, name in enumerate(names)}

    with Image.open(io.BytesIO(images["ann", "1.jpg"])) as image:
        images["bob", "saved again.jpg"] = encoded(image, quality=70)
    dataset = pack(MemorySource(images), tmp_path / "out", look_alikes=True)
    rows = pyarrow.parquet.read_table(dataset.path / "duplicates.parquet").to_pylist()
    (row,) = rows
    named = {(row[f"{w}_identity"], row[f"{w}_image"]) for w in ("first", "second")}
    assert named == {("ann", "1.jpg"), ("bob", "saved again.jpg")}
    assert (row["kind"], row["same_identity"]) == ("look", False)
    assert dataset.source["look_alikes_across_identities"] == 1
