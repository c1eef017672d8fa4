"""Damaged tars of others are written again elsewhere, without what is wrong; theirs stay."""

import os
import tarfile

import pytest

from data_pipeline.checking.check import check
from data_pipeline.checking.report import DatasetReport, TarsReport
from data_pipeline.checking.sound_copies import LIST, copy_sound, tars_report
from data_pipeline.errors import DataError
from data_pipeline.reindex import reindex, tars_of
from data_pipeline.shards import ShardReader
from tests.data_pipeline.checking.broken import found, report_of, sample, write_tar
from tests.data_pipeline.pictures import contents, jpeg


def images(dataset):
    reader = ShardReader(dataset, max_open=1)
    read = [reader.read(number).content for number in range(dataset.num_samples)]
    reader.close()
    return read


def test_sound_tars_are_named_and_damaged_ones_written_again(tmp_path):
    folder = tmp_path / "tars"
    write_tar(folder / "0.tar", [*sample("a", content=jpeg(1)), *sample("b", content=jpeg(2))])
    damaged = [
        *sample("c", content=jpeg(3)),
        ("d.jpg", jpeg(4)),
        *sample("e", content=jpeg(5)[:200]),
        *sample("f.front", content=jpeg(6)),
        *sample("f.side", content=jpeg(7)),
        ("README", b"hello"),
        *sample("c", content=jpeg(8)),
        *sample("g", content=jpeg(9)),
    ]
    write_tar(folder / "1.tar", damaged)
    before = contents(folder)
    report = report_of(folder)
    assert isinstance(report, TarsReport)
    copied = copy_sound(report, tmp_path / "sound")
    assert (copied.tars, copied.samples, copied.keys_left_out) == (1, 4, 3)
    assert contents(folder) == before
    assert found(tmp_path / "sound" / LIST) == {}
    dataset = reindex(tars_of(str(tmp_path / "sound" / LIST)), tmp_path / "index")
    assert images(dataset) == [jpeg(seed) for seed in (1, 2, 3, 6, 7, 9)]


def test_a_cut_tar_is_copied_up_to_the_cut(tmp_path):
    path = write_tar(tmp_path / "tars/0.tar", [*sample("a"), *sample("b"), *sample("c")])
    with tarfile.open(path) as tar:
        os.truncate(path, tar.getmembers()[4].offset_data + 10)
    report = check(str(path))
    assert isinstance(report, TarsReport)
    assert copy_sound(report, tmp_path / "sound").samples == 2
    assert found(tmp_path / "sound" / LIST) == {}


def test_the_tars_of_an_index_are_copied_too(tmp_path):
    write_tar(tmp_path / "tars/0.tar", [*sample("a"), *sample("b")])
    write_tar(tmp_path / "tars/1.tar", [*sample("c"), *sample("d")])
    made = reindex(tars_of(str(tmp_path / "tars")), tmp_path / "tars")
    with (tmp_path / "tars/1.tar").open("r+b") as tar:
        tar.seek(made.members(1)["offset"][0].item())
        tar.write(b"\xff\xd8 no more")
    report = report_of(tmp_path / "tars")
    assert isinstance(report, DatasetReport)
    copied = copy_sound(tars_report(report), tmp_path / "sound")
    assert (copied.tars, copied.samples, copied.keys_left_out) == (1, 1, 1)
    lines = (tmp_path / "sound" / LIST).read_text().splitlines()
    assert lines == [f"file://{tmp_path}/tars/0.tar", "tar-000001.tar"]


def test_an_existing_folder_is_left_as_it_is(tmp_path):
    write_tar(tmp_path / "tars/0.tar", [*sample("a"), ("b.jpg", jpeg(1))])
    report = report_of(tmp_path / "tars")
    assert isinstance(report, TarsReport)
    with pytest.raises(DataError, match="exists already"):
        copy_sound(report, tmp_path / "tars")
