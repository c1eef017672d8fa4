import pickle

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.recordio import framed
from data_pipeline.sources import for_workers
from data_pipeline.sources.opening import open_source
from data_pipeline.sources.recordio import RecordIOSource
from tests.data_pipeline.pictures import jpeg
from tests.data_pipeline.recordio_files import MAGIC, image_record, part, write_set


def read_all(source):
    """{content: label} of every image."""
    return {source.read(*name): name[0] for name in source}


def with_header(images, *, ranges):
    """Records as insightface orders them: a header, images, an identity record each."""
    first = 1 + len(images)
    return [
        image_record(b"", first, first + len(ranges)),
        *images,
        *(image_record(b"", *ends) for ends in ranges),
    ]


def test_a_set_with_header_and_identity_records_lists_its_images_alone(tmp_path):
    images = [image_record(b"a", 0.0), image_record(b"b", 0.0), image_record(b"c", 1.0)]
    write_set(tmp_path, with_header(images, ranges=[(1, 3), (3, 4)]))
    source = RecordIOSource.open(tmp_path)
    assert read_all(source) == {b"a": "0", b"b": "0", b"c": "1"}
    assert source.counts() == {"identity_records": 2}


def test_a_shuffled_set_has_neither_and_its_record_0_is_an_image(tmp_path):
    write_set(tmp_path, [image_record(b"a", 5.0), image_record(b"b", 2.0)])
    assert read_all(RecordIOSource.open(tmp_path / "train.rec")) == {b"a": "5", b"b": "2"}


def test_the_first_of_several_labels_is_the_identity(tmp_path):
    write_set(tmp_path, [image_record(b"a", 5.0, 0.25), image_record(b"b", 2.0, 0.5, 9.0)])
    assert read_all(RecordIOSource.open(tmp_path)) == {b"a": "5", b"b": "2"}


def test_an_image_in_several_parts_is_whole(tmp_path):
    content = b"head" + MAGIC + b"tail" + MAGIC
    record = framed(image_record(content, 3.0))
    assert record.count(MAGIC) == 3
    (tmp_path / "train.rec").write_bytes(part(0, image_record(b"x", 1.0)) + record)
    (tmp_path / "train.idx").write_text("0\t0\n1\t36\n")
    assert read_all(RecordIOSource.open(tmp_path)) == {b"x": "1", content: "3"}


def test_an_image_record_without_an_image_is_listed_and_unreadable(tmp_path):
    images = [image_record(b"a", 0.0), image_record(b"", 0.0)]
    source = RecordIOSource.open(write_set(tmp_path, with_header(images, ranges=[(1, 3)])))
    _, empty = source
    with pytest.raises(DataError, match="a record without an image"):
        source.read(*empty)


def test_numbers_of_identity_records_that_float32_rounds_hide_no_image(tmp_path):
    # 2^24 + 3 is rounded to 2^24 + 4, which says nothing of the numbers just below it.
    last = (1 << 24) + 2
    records = [image_record(b"", last + 1, last + 2), image_record(b"a", 0.0)]
    records += [image_record(b"", 0.0), image_record(b"", 1, last + 1)]
    write_set(tmp_path, records, numbers=[0, 1, last, last + 8])
    source = RecordIOSource.open(tmp_path)
    assert [image.partition("@")[0] for _, image in source] == ["1", str(last)]
    assert source.counts() == {"identity_records": 1}


def test_a_set_packs_like_any_source_and_in_other_processes(tmp_path):
    images = [image_record(jpeg(i), float(i % 3)) for i in range(9)]
    write_set(tmp_path / "rec", with_header(images, ranges=[(1, 10)] * 3))
    datasets = [
        pack(open_source(tmp_path / "rec"), tmp_path / f"{workers}", workers=workers)
        for workers in (1, 2)
    ]
    assert datasets[0].num_samples == 9
    assert sorted(datasets[0].identity_names()) == ["0", "1", "2"]
    assert datasets[0].shards[0].sha256 == datasets[1].shards[0].sha256


def test_what_workers_get_reads_but_carries_no_listing(tmp_path):
    write_set(tmp_path, [image_record(b"face", 5.0)] * 5000)
    source = RecordIOSource.open(tmp_path)
    sent = pickle.dumps(for_workers(source))
    assert len(sent) < 2000
    name = list(source)[4321]
    assert pickle.loads(sent).read(*name) == b"face"


def test_listing_holds_across_the_blocks_in_which_the_index_is_read(tmp_path):
    count = 100_000  # more than 1 MB of index, read in pieces of a quarter
    (tmp_path / "train.rec").write_bytes(part(0, image_record(b"faces", 1.0)) * count)
    lines = (f"{i}\t{40 * i}\n" for i in range(count))
    (tmp_path / "train.idx").write_text("".join(lines))
    source = RecordIOSource.open(tmp_path)
    assert np.array_equal(source.listing["offset"].to_numpy(), 40 * np.arange(count))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", "train.idx is no index of a RecordIO file: Empty CSV file"),
        ("0 0\n", r"train.idx is no index of a RecordIO file: CSV parse error"),
        ("0\tx\n", r"train.idx is no index of a RecordIO file"),
        ("0\t0\n1\t\n", r"train.idx is no index of a RecordIO file"),
        ("0\t0\n1\t99999999999999999999\n", r"train.idx is no index of a RecordIO file"),
        ("0\t4\n", r"record 0 of .*train.rec: no record begins or goes on at byte 4; copy"),
        ("0\t0\n7\t72\n", r"record 7 of .*: the file ends at byte 72, inside a record; copy"),
        ("0\t0\n1\t-36\n", "lists records out of order or twice"),
        ("0\t36\n1\t0\n", "lists records out of order or twice"),
        ("0\t0\n1\t0\n", "lists records out of order or twice"),
        ("0\t9223372036854775807\n", r"record 0 of .*: .*Invalid argument; copy"),
        ("0\t9223372036854775807\n1\t-5\n", "lists records out of order or twice"),
        ("5\t-36\n", "lists records out of order or twice"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_in_one_line(tmp_path, index, message):
    write_set(tmp_path, [image_record(b"a", 1.0), image_record(b"b", 1.0)])
    (tmp_path / "train.idx").write_text(index)
    with pytest.raises(DataError, match=message) as caught:
        RecordIOSource.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf"), 1e30])
def test_labels_that_are_no_whole_numbers_are_refused_with_their_record(tmp_path, label):
    write_set(tmp_path, [image_record(b"a", 1.0), image_record(b"b", label)])
    with pytest.raises(DataError, match=r"record 1 of .*train.rec has the label .*whole numbers"):
        RecordIOSource.open(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    write_set(tmp_path, [image_record(b"a", 1.0), image_record(b"bcdef", 1.0)])
    rec = tmp_path / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"record 1 of .*: the file ends inside the record"):
        RecordIOSource.open(tmp_path)


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train.rec does not exist; a RecordIO set is a .rec and"):
        RecordIOSource.open(tmp_path)
    write_set(tmp_path, [])
    with pytest.raises(DataError, match=r"train.rec is empty; copy it again"):
        RecordIOSource.open(tmp_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(DataError, match=r"train.idx does not exist"):
        RecordIOSource.open(tmp_path)
