"""Every kind of damage of a dataset is found, and a sound one has none."""

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from data_pipeline.index import IDENTITIES, INDEX, Dataset, file_of, index_text
from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.reindex import reindex, tars_of
from tests.data_pipeline.checking.broken import (
    PEOPLE,
    SHARD_BYTES,
    cmyk_jpeg,
    found,
    huge_png,
    packed,
    report_of,
    rewrite_records,
    sample,
    sixteen_bit_png,
    write_tar,
)
from tests.data_pipeline.faces import dataset_of, flip_byte
from tests.data_pipeline.pictures import jpeg, people


@pytest.fixture
def dataset(tmp_path):
    return packed(tmp_path / "packed")


def tar(dataset: Dataset, index: int = 0) -> Path:
    return dataset.path / f"{dataset.shards[index].name}.tar"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sound_dataset_has_nothing_wrong(dataset, workers):
    report = report_of(dataset.path, workers=workers)
    assert (report.form, report.samples, report.files) == ("dataset", 24, len(dataset.shards))
    assert not report.findings.counts
    assert not report.findings.named


def test_duplicates_and_pairs_are_nothing_wrong(tmp_path):
    source = people(PEOPLE)
    source.images["ann", "again.jpg"] = source.images["ann", "0.jpg"]  # pyright: ignore[reportIndexIssue]
    pack(source, tmp_path / "duplicates")
    assert found(tmp_path / "duplicates") == {}
    pack_drawn_pairs(people(PEOPLE), tmp_path / "pairs", num_pairs=20, folds=1)
    assert found(tmp_path / "pairs") == {}


def test_tars_that_were_indexed_beside_or_elsewhere_have_nothing_wrong(tmp_path):
    folder = tmp_path / "tars"
    for number in range(2):
        members = [m for k in "abc" for m in sample(f"{number}/{k}", label=f"name {k}")]
        write_tar(folder / f"part.{number}.tar", members)
    reindex(tars_of(str(folder)), tmp_path / "index")
    assert found(tmp_path / "index") == {}
    reindex(tars_of(str(folder)), folder)
    assert found(folder) == {}


def test_a_changed_byte_of_an_image_is_found_in_its_sample(dataset):
    flip_byte(dataset, 10)
    report = report_of(dataset.path)
    assert report.findings.counts == {"crc": 1, "content_changed": 1}
    (finding,) = report.findings.named["crc"]
    assert finding.sample == 10
    assert finding.thumbnail is not None


def test_a_change_outside_of_the_images_is_found_by_the_digest(dataset):
    with tar(dataset).open("r+b") as stream:
        stream.seek(dataset.members(0)[0]["offset"].item() - 20)  # the rest of a header
        stream.write(b"x")
    assert found(dataset.path) == {"damaged_tar": 1, "content_changed": 1}


def test_a_cut_tar_costs_the_samples_behind_the_cut(dataset):
    records = dataset.members(1)
    os.truncate(tar(dataset, 1), records[2]["offset"].item() + 5)
    counts = found(dataset.path)
    assert counts == {"damaged_tar": 1, "size_changed": 1, "misplaced": len(records) - 2}
    assert report_of(dataset.path).shards[1].bad.tolist() == list(range(2, len(records)))  # pyright: ignore[reportAttributeAccessIssue]


def test_images_behind_a_damaged_header_are_still_compared(dataset):
    records = dataset.members(0)
    with tar(dataset).open("r+b") as stream:
        stream.seek(records[1]["offset"].item() - 512)
        stream.write(b"\xff" * 512)
    flip_byte(dataset, 4)
    report = report_of(dataset.path)
    assert report.findings.counts == {"damaged_tar": 1, "content_changed": 1, "misplaced": 1}
    assert report.findings.named["misplaced"][0].sample == 4


@pytest.mark.parametrize("suffix", ["tar", "members", "idx"])
def test_a_missing_file_is_named(dataset, suffix):
    path = tar(dataset, 1).with_suffix(f".{suffix}")
    path.unlink()
    report = report_of(dataset.path)
    assert report.findings.counts["missing_file"] == 1
    assert report.findings.named["missing_file"][0].where == path.name
    assert report.findings.counts.total() == 1


@pytest.mark.parametrize("suffix", ["members", "idx"])
def test_a_stale_file_of_a_shard_is_found(dataset, suffix):
    path = tar(dataset, 1).with_suffix(f".{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert found(dataset.path) == {"content_changed": 1}
    path.write_bytes(content[:-1])
    assert found(dataset.path) == {"size_changed": 1}


def test_a_fifo_in_place_of_a_tar_is_not_waited_for(dataset):
    tar(dataset).unlink()
    os.mkfifo(tar(dataset))
    assert found(dataset.path) == {"unreadable_file": 1}


def test_a_tar_of_another_pack_is_a_stale_index(dataset, tmp_path):
    other = pack(people({"zoe": 12}, size=17), tmp_path / "other", shard_bytes=SHARD_BYTES)
    tar(dataset).write_bytes(tar(other).read_bytes())
    counts = found(dataset.path)
    assert counts["misplaced"] >= dataset.shards[0].samples
    assert counts.get("size_changed", 0) + counts.get("content_changed", 0) == 1


def test_records_that_point_elsewhere_are_misplaced(dataset):
    def shift(records):
        records["offset"][3] += 512

    rewrite_records(dataset, 0, shift)
    report = report_of(dataset.path)
    assert report.findings.counts == {"misplaced": 1, "unindexed": 1}
    assert report.findings.named["misplaced"][0].sample == 3


def test_records_past_the_end_of_the_tar_are_damaged(dataset):
    def far(records):
        records["offset"][3] = 2**64 - 10

    rewrite_records(dataset, 0, far)
    assert found(dataset.path) == {"records_damaged": 1}


@pytest.mark.parametrize("label", [-1, 3, 2**62])
def test_a_label_that_does_not_exist_is_found(dataset, label):
    def relabel(records):
        records["label"][2] = label

    rewrite_records(dataset, 0, relabel)
    counts = found(dataset.path)
    assert counts.pop("label_out_of_range") == 1
    assert counts.keys() == {"identities_disagree"}  # an identity has an image less


def test_a_label_of_the_tar_that_differs_is_found(dataset):
    def relabel(records):
        records["label"][2] = (records["label"][2] + 1) % 3

    rewrite_records(dataset, 0, relabel)
    counts = found(dataset.path)
    assert counts.pop("label_differs") == 1
    assert counts == {"identities_disagree": 2}


def test_names_as_labels_are_compared_by_name(tmp_path):
    members = [*sample("a", "Zoe"), *sample("b", "Ann"), *sample("c", "Zoe")]
    write_tar(tmp_path / "t.tar", members)
    dataset = reindex(tars_of(str(tmp_path / "t.tar")), tmp_path / "index")

    def swap(records):
        records["label"] = [0, 1, 1]

    rewrite_records(dataset, 0, swap)
    report = report_of(dataset.path)
    assert report.findings.counts["label_differs"] == 2
    assert report.findings.named["label_differs"][0].detail == "Zoe in the tar, Ann in the index"


IMAGES = {
    "undecodable": jpeg(1)[:300],
    "not_an_image": b"no image at all",
    "oversized": huge_png(),
    "cmyk": cmyk_jpeg(),
    "sixteen_bit": sixteen_bit_png(),
    "size_differs": jpeg(2, 24),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_fault_of_an_image_is_found(tmp_path, kind):
    contents = [jpeg(seed) for seed in range(6)]
    contents[4] = IMAGES[kind]
    dataset_of(tmp_path / "faces", contents, [0] * 6, num_identities=1, image_size=(16, 16))
    report = report_of(tmp_path / "faces")
    assert report.findings.counts == {kind: 1}
    assert report.findings.named[kind][0].sample == 4


def replaced_identities(dataset, table):
    path = dataset.path / IDENTITIES
    parquet.write_table(table, path)
    changed = replace(dataset, extras={**dataset.extras, IDENTITIES: file_of(path)})
    (dataset.path / INDEX).write_text(index_text(changed))
    return found(dataset.path)


def test_identities_that_disagree_are_found(dataset):
    table = parquet.read_table(dataset.path / IDENTITIES)
    wrong = table.set_column(
        2, "images", pyarrow.array(table["images"].to_numpy() + np.array([0, 1, 1]))
    )
    assert replaced_identities(dataset, wrong) == {"identities_disagree": 2}
    assert replaced_identities(dataset, table.slice(1)) == {"identities_disagree": 1}
    assert replaced_identities(dataset, table.drop(["name"])) == {"identities_disagree": 1}
    assert replaced_identities(dataset, table.take([2, 0, 1])) == {}
    (dataset.path / IDENTITIES).write_bytes(b"no table")
    assert found(dataset.path) == {"size_changed": 1}


def test_an_identity_without_an_image_is_told(dataset):
    table = parquet.read_table(dataset.path / IDENTITIES)
    more = pyarrow.table({"label": [3], "name": ["nobody"], "images": [0]}, schema=table.schema)
    path = dataset.path / IDENTITIES
    parquet.write_table(pyarrow.concat_tables([table, more]), path)
    extras = {**dataset.extras, IDENTITIES: file_of(path)}
    changed = replace(dataset, num_identities=4, extras=extras)
    (dataset.path / INDEX).write_text(index_text(changed))
    report = report_of(dataset.path)
    assert report.findings.counts == {"empty_identity": 1}
    assert report.errors == 0


def test_pairs_of_samples_that_do_not_exist_are_found(tmp_path):
    made = pack_drawn_pairs(people(PEOPLE), tmp_path / "pairs", num_pairs=20, folds=1).dataset
    path = made.path / "pairs.parquet"
    table = parquet.read_table(path)
    first = np.full(len(table), 99)
    parquet.write_table(table.set_column(0, "first", pyarrow.array(first)), path)
    changed = replace(made, extras={**made.extras, "pairs.parquet": file_of(path)})
    (made.path / INDEX).write_text(index_text(changed))
    assert found(made.path) == {"tables_disagree": 1}


def test_a_file_of_a_shard_that_nobody_names_is_told(dataset):
    (dataset.path / "shard-000099.tar").write_bytes(b"")
    assert found(dataset.path) == {"stray_file": 1}


def test_a_damaged_index_is_found_and_the_tars_are_checked_all_the_same(dataset):
    (dataset.path / INDEX).write_text("{")
    flip_byte(dataset, 3)
    report = report_of(dataset.path)
    assert report.form == "tars"
    assert report.findings.counts == {"index_damaged": 1}  # without an index no byte is known
    assert report.samples == 24


def test_members_that_are_no_files_are_told(dataset):
    with tarfile.open(tar(dataset), "a") as stream:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"odd{kind!r}")
            info.type = kind
            stream.addfile(info)
    counts = found(dataset.path)
    assert {kind: counts.pop(kind) for kind in ("directories", "links", "devices")} == {
        "directories": 1,
        "links": 1,
        "devices": 1,
    }
    assert counts.keys() == {"size_changed"} or counts.keys() == {"content_changed"}


def test_samples_that_indexing_left_out_are_known(tmp_path):
    members = [*sample("a"), ("b.jpg", jpeg(3)), *sample("c")]
    write_tar(tmp_path / "t.tar", members)
    reindex(tars_of(str(tmp_path / "t.tar")), tmp_path / "index", max_unreadable=0.5)
    report = report_of(tmp_path / "index")
    assert report.findings.counts == {"left_out": 1}
    assert report.errors == 0


def test_any_number_of_processes_finds_the_same(dataset):
    for number in (2, 9, 20):
        flip_byte(dataset, number)
    (tar(dataset, 1).with_suffix(".idx")).unlink()
    one, two = report_of(dataset.path, workers=1), report_of(dataset.path, workers=2)
    assert one.plain() == two.plain()
    assert one.findings == two.findings


def test_a_thousand_faults_are_counted_and_a_few_are_kept(tmp_path):
    contents = [b"rubbish"] * 100
    dataset_of(tmp_path / "faces", contents, [0] * 100, num_identities=1, image_size=None)
    report = report_of(tmp_path / "faces")
    assert report.findings.counts["not_an_image"] == 100
    assert len(report.findings.named["not_an_image"]) == 20


def test_names_lose_what_a_terminal_would_act_on(tmp_path):
    name = "\x1b[31m\nred\u202e.a.jpg"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        info = tarfile.TarInfo(name)
        written.addfile(info)
    (tmp_path / "t.tar").write_bytes(stream.getvalue())
    (finding,) = report_of(tmp_path / "t.tar").findings.named["dotted_name"]
    assert finding.where == r"t.tar: \x1b[31m\nred\u202e.a.jpg"
