import numpy as np
import pytest

from data_pipeline import recordio_export
from data_pipeline.errors import DataError
from data_pipeline.pack import pack
from data_pipeline.recordio import read_record, unpack_record
from data_pipeline.recordio_export import export_recordio
from data_pipeline.shards import ShardReader
from data_pipeline.sources.recordio import RecordIOSource
from tests.data_pipeline.faces import dataset_of, flip_byte
from tests.data_pipeline.pictures import contents, people
from tests.data_pipeline.recordio_files import MAGIC


@pytest.fixture
def dataset(tmp_path):
    return pack(people({"ann": 5, "bob": 9, "eve": 1}), tmp_path / "set", shard_bytes=20_000)


def faces_of(dataset):
    """(label, image bytes) of every sample, in order."""
    reader = ShardReader(dataset, max_open=4)
    faces = [reader.read(sample) for sample in range(dataset.num_samples)]
    reader.close()
    return [(face.label, face.content) for face in faces]


def records_of(folder, index="train.idx"):
    """{number: (labels, image bytes)} of a set."""
    lines = [line.split("\t") for line in (folder / index).read_text().splitlines()]
    with (folder / "train.rec").open("rb") as rec:
        return {
            int(number): unpack_record(read_record(rec.fileno(), int(offset), max_bytes=1 << 20))
            for number, offset in lines
        }


def test_a_dataset_is_written_as_insightface_orders_it(tmp_path, dataset):
    # face2rec2.py: record 0 points at identity records, which point at ranges of images.
    assert export_recordio(dataset, tmp_path / "rec") == {"images": 15, "identities": 3}
    records = records_of(tmp_path / "rec")
    assert list(records) == list(range(1 + 15 + 3))
    assert records[0] == ((16.0, 19.0), b"")
    ordered = sorted(faces_of(dataset), key=lambda face: face[0])
    assert [(records[n].labels, records[n].content) for n in range(1, 16)] == [
        ((float(label),), content) for label, content in ordered
    ]
    first = 1
    for label, count in enumerate(np.bincount(dataset.labels())):
        assert records[16 + label] == ((float(first), float(first + count)), b"")
        first += count
    assert (tmp_path / "rec" / "property").read_text() == "3,16,16\n"


def test_the_second_index_names_the_images_alone(tmp_path, dataset):
    export_recordio(dataset, tmp_path / "rec")
    images = records_of(tmp_path / "rec", "train_images.idx")
    assert list(images) == list(range(1, 16))
    assert all(record.content for record in images.values())


def test_what_was_exported_packs_to_the_same_faces_of_the_same_people(tmp_path, dataset):
    export_recordio(dataset, tmp_path / "rec")
    again = pack(RecordIOSource.open(tmp_path / "rec"), tmp_path / "again")
    names = again.identity_names()
    found = sorted((int(names[label]), content) for label, content in faces_of(again))
    assert found == sorted(faces_of(dataset))
    assert again.source["identity_records"] == 3


def test_images_that_hold_the_magic_word_come_back_whole(tmp_path):
    images = [b"ab" + MAGIC, MAGIC, bytes(4) + MAGIC + b"x", b"plain"]
    dataset = dataset_of(tmp_path / "set", images, [0, 1, 2, 3], num_identities=4)
    export_recordio(dataset, tmp_path / "rec")
    source = RecordIOSource.open(tmp_path / "rec")
    assert [source.read(*name) for name in source] == images


def test_a_set_too_large_for_float32_has_neither_header_nor_identity_records(
    tmp_path, dataset, monkeypatch
):
    monkeypatch.setattr(recordio_export, "EXACT", 18)  # instead of 2^24; 19 records would be needed
    export_recordio(dataset, tmp_path / "rec")
    records = records_of(tmp_path / "rec")
    assert list(records) == list(range(15))
    assert contents(tmp_path / "rec")["train.idx"] == contents(tmp_path / "rec")["train_images.idx"]
    source = RecordIOSource.open(tmp_path / "rec")
    found = sorted((int(name[0]), source.read(*name)) for name in source)
    assert found == sorted(faces_of(dataset))


def test_the_order_does_not_depend_on_how_many_images_are_held(tmp_path, dataset, monkeypatch):
    export_recordio(dataset, tmp_path / "a")
    monkeypatch.setattr(recordio_export, "_READ_AT_ONCE", 4)
    export_recordio(dataset, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_damaged_sample_is_named_and_nothing_is_left(tmp_path, dataset):
    flip_byte(dataset, 3)
    with pytest.raises(DataError, match=r"sample 3 \(shard-.*cannot be exported \(crc\); find"):
        export_recordio(dataset, tmp_path / "rec")
    assert not list(tmp_path.glob("rec*"))


def test_images_of_several_sizes_are_refused(tmp_path):
    dataset = dataset_of(tmp_path / "set", [b"a"], [0], num_identities=1, image_size=None)
    with pytest.raises(DataError, match="holds images of several sizes"):
        export_recordio(dataset, tmp_path / "rec")


def test_dali_reads_what_was_exported_through_the_index_of_images(tmp_path, dataset):
    from nvidia.dali import fn
    from nvidia.dali.pipeline import pipeline_def

    export_recordio(dataset, tmp_path / "rec")

    @pipeline_def(batch_size=15, num_threads=1, device_id=None)  # pyright: ignore[reportArgumentType]
    def read():
        images, labels = fn.readers.mxnet(
            path=[str(tmp_path / "rec" / "train.rec")],
            index_path=[str(tmp_path / "rec" / "train_images.idx")],
        )
        return images, labels

    images, labels = read().run()
    found = [
        (int(np.array(labels[i])[0]), np.array(images[i]).tobytes()) for i in range(len(labels))
    ]
    assert sorted(found) == sorted(faces_of(dataset))
