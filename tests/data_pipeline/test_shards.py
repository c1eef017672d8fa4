"""Single faces come out of the tars whole, or as a named fault."""

import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.shards import BadSampleError, ShardReader
from tests.data_pipeline.checking.broken import huge_png
from tests.data_pipeline.faces import dataset_of, flip_byte, jpeg

CONTENTS = [jpeg(seed) for seed in range(12)]
LABELS = [seed % 5 for seed in range(12)]


@pytest.fixture
def dataset(tmp_path):
    made = dataset_of(tmp_path / "faces", CONTENTS, LABELS, shard_bytes=10_000)
    assert len(made.shards) >= 3
    return made


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_sample_is_the_bytes_and_the_label_that_were_packed(dataset):
    reader = ShardReader(dataset, max_open=2)
    for sample in np.random.default_rng(0).permutation(12).tolist():
        assert reader.read(sample) == (CONTENTS[sample], LABELS[sample])
    reader.close()


def test_no_more_files_are_open_than_allowed_and_none_after_close(dataset):
    before = open_files()
    reader = ShardReader(dataset, max_open=2)
    for sample in (0, 11, 0, 6, 11, 0, 5):
        reader.read(sample)
        assert open_files() - before <= 2
    assert open_files() - before == 2
    reader.close()
    assert open_files() == before
    assert reader.read(11).content == CONTENTS[11]
    reader.close()


def fault(reader: ShardReader, sample: int) -> str:
    with pytest.raises(BadSampleError) as caught:
        reader.read(sample)
    assert caught.value.sample == sample
    return caught.value.reason


def test_a_changed_byte_is_noticed_and_its_neighbours_are_not_blamed(dataset):
    flip_byte(dataset, 4)
    reader = ShardReader(dataset, max_open=2)
    assert fault(reader, 4) == "crc"
    assert [reader.read(s).content for s in (3, 5)] == [CONTENTS[3], CONTENTS[5]]
    reader.close()


def test_a_tar_cut_after_the_dataset_was_opened_spoils_the_samples_behind_the_cut(dataset):
    tar = dataset.path / f"{dataset.shards[0].name}.tar"
    last = dataset.shards[0].samples - 1
    os.truncate(tar, dataset.members(0)[last]["offset"].item() + 10)
    reader = ShardReader(dataset, max_open=2)
    assert fault(reader, last) == "read"
    assert reader.read(0).content == CONTENTS[0]
    reader.close()


def test_a_tar_that_disappeared_spoils_its_samples_only(dataset):
    (dataset.path / f"{dataset.shards[1].name}.tar").unlink()
    reader = ShardReader(dataset, max_open=2)
    assert fault(reader, dataset.shards[1].first_sample) == "read"
    assert reader.read(0).content == CONTENTS[0]
    reader.close()


@pytest.mark.parametrize("label", [5, -1, 2**40])
def test_a_label_that_does_not_exist_spoils_its_sample_only(tmp_path, label):
    labels = [*LABELS[:3], label, *LABELS[4:]]
    reader = ShardReader(dataset_of(tmp_path / "faces", CONTENTS, labels), max_open=2)
    assert fault(reader, 3) == "label"
    assert reader.read(2).label == 2
    reader.close()


def test_damaged_records_are_an_error_of_the_dataset(dataset):
    members = dataset.path / f"{dataset.shards[0].name}.members"
    content = bytearray(members.read_bytes())
    content[3] ^= 1
    members.write_bytes(content)
    reader = ShardReader(dataset, max_open=2)
    with pytest.raises(DataError, match=members.name):
        reader.read(0)


def test_where_names_the_tar_and_the_number_in_it(dataset):
    shard = dataset.shards[1]
    reader = ShardReader(dataset, max_open=2)
    assert reader.where(shard.first_sample + 1) == (
        f"sample {shard.first_sample + 1} ({shard.name}.tar, number 1)"
    )


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    contents = [jpeg(0), huge_png(), b"rubbish"]
    made = dataset_of(tmp_path / "faces", contents, [0] * 3, image_size=None)
    reader = ShardReader(made, max_open=1)
    assert reader.read_image(0) == (contents[0], 0)
    assert reader.read(1).content == contents[1]
    for sample, reason in ((1, "oversized"), (2, "decode")):
        with pytest.raises(BadSampleError) as caught:
            reader.read_image(sample)
        assert (caught.value.sample, caught.value.reason) == (sample, reason)
    reader.close()


def test_a_record_of_more_bytes_than_an_image_has_is_not_read(tmp_path, monkeypatch):
    made = dataset_of(tmp_path / "faces", CONTENTS, LABELS)
    monkeypatch.setattr("data_pipeline.shards.MAX_IMAGE_BYTES", len(CONTENTS[0]) - 1)
    reader = ShardReader(made, max_open=1)
    assert fault(reader, 0) == "oversized"
    reader.close()
