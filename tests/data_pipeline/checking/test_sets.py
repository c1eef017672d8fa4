"""Tars without an index and folders of images: every fault is found, sound ones have none."""

import os
import tarfile

import pytest

from data_pipeline.checking.check import check
from data_pipeline.errors import DataError
from data_pipeline.reindex import reindex, tars_of
from tests.data_pipeline.checking.broken import (
    cmyk_jpeg,
    found,
    huge_png,
    report_of,
    sample,
    sixteen_bit_png,
    write_tar,
)
from tests.data_pipeline.pictures import encoded, jpeg, people, pixels, write_folder


def tars(folder, *lists):
    for number, members in enumerate(lists):
        write_tar(folder / f"part-{number}.tar", members)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_sound_tars_have_nothing_wrong(tmp_path, workers):
    folder = tars(
        tmp_path / "tars",
        [*sample("x/a", "7"), *sample("x/b", "40"), ("README", b"hello")],
        [("x/c.png", encoded(pixels(4), "PNG")), ("x/c.json", b'{"label": 7}')],
    )
    report = report_of(folder, workers=workers)
    assert (report.form, report.files, report.samples) == ("tars", 2, 3)
    assert not report.findings.counts


GROUPS = {
    "repeated_member": [("a.jpg", jpeg(1)), ("a.jpg", jpeg(2)), ("a.cls", b"1")],
    "several_images": [("a.jpg", jpeg(1)), ("a.png", jpeg(2)), ("a.cls", b"1")],
    "no_image": [("a.cls", b"1")],
    "no_label": [("a.jpg", jpeg(1))],
    "bad_label": [("a.jpg", jpeg(1)), ("a.cls", b"\xff\x00")],
    "negative_label": [("a.jpg", jpeg(1)), ("a.cls", b"-4")],
    "undecodable": sample("a", content=jpeg(1)[:300]),
    "not_an_image": sample("a", content=b"rubbish"),
    "oversized": sample("a", content=huge_png()),
    "cmyk": sample("a", content=cmyk_jpeg()),
    "sixteen_bit": sample("a", content=sixteen_bit_png()),
    "duplicate_key": [*sample("a"), *sample("b"), *sample("a", content=jpeg(3))],
    "dotted_name": sample("a.front"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_every_fault_of_a_sample_is_found(tmp_path, kind):
    tars(tmp_path / "tars", [*sample("first"), *GROUPS[kind], *sample("last")])
    expected = 2 if kind == "dotted_name" else 1  # its label and its image
    assert found(tmp_path / "tars") == {kind: expected}


def test_the_next_sample_is_not_blamed(tmp_path):
    tars(tmp_path / "tars", [("a.jpg", jpeg(1)), *sample("b")])
    (finding,) = report_of(tmp_path / "tars").findings.named["no_label"]
    assert finding.where == "part-0.tar: a"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"no tar at all" * 100, "no tar"),
        (b"\x1f\x8b" + bytes(600), "compressed"),
    ],
)
def test_what_is_no_tar_is_found(tmp_path, content, told):
    tars(tmp_path / "tars", sample("a"))
    (tmp_path / "tars/part-1.tar").write_bytes(content)
    report = report_of(tmp_path / "tars")
    assert report.findings.counts.keys() - {"unequal_shards"} == {"damaged_tar"}
    assert told in report.findings.named["damaged_tar"][0].detail


def test_a_cut_tar_is_found_with_the_samples_before_the_cut(tmp_path):
    path = tars(tmp_path / "tars", [*sample("a"), *sample("b")]) / "part-0.tar"
    with tarfile.open(path) as tar:
        os.truncate(path, tar.getmembers()[2].offset_data + 10)
    report = report_of(path)
    assert report.findings.counts["damaged_tar"] == 1
    assert report.samples == 1


def test_a_tar_without_samples_is_told(tmp_path):
    tars(tmp_path / "tars", [("README", b"hello")])
    assert found(tmp_path / "tars") == {"no_samples": 1}


def test_labels_of_two_kinds_are_told(tmp_path):
    tars(tmp_path / "tars", sample("a", "7"), sample("b", "Ann"))
    assert found(tmp_path / "tars") == {"mixed_labels": 1}


def test_keys_of_several_tars_are_told_with_both(tmp_path):
    both = [*sample("a"), *sample("b")]
    tars(tmp_path / "tars", both, [*sample("c"), *sample("d")], both)
    report = report_of(tmp_path / "tars")
    assert report.findings.counts == {"duplicate_key_across": 2}
    (finding,) = report.findings.named["duplicate_key_across"]
    assert (finding.where, finding.detail) == ("part-0.tar and part-2.tar", "2 keys")


def test_unequal_tars_are_told_but_a_short_last_one_is_not(tmp_path):
    many = [m for k in range(40) for m in sample(f"many{k}")]
    few, middle = sample("few"), [m for k in range(40) for m in sample(f"middle{k}")]
    tars(tmp_path / "last", many, middle, few)
    assert found(tmp_path / "last") == {}
    tars(tmp_path / "first", few, many, middle)
    assert found(tmp_path / "first") == {"unequal_shards": 1}


def test_a_tar_that_is_not_there_is_found(tmp_path):
    (tmp_path / "tars.txt").write_text("nowhere.tar\n")
    assert found(tmp_path / "tars.txt") == {"unreadable_file": 1}


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        check(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sound_folder_of_images_has_nothing_wrong(tmp_path, workers):
    folder = write_folder(tmp_path / "faces", people({"ann": 3, "bob": 70}).images)
    report = report_of(folder, workers=workers)
    assert (report.form, report.samples) == ("folder", 73)
    assert not report.findings.counts


def test_the_faults_of_a_folder_are_found(tmp_path):
    images = {
        **people({"ann": 3}).images,
        ("bob", "cut.jpg"): jpeg(5)[:200],
        ("bob", "rubbish.png"): b"rubbish",
        ("bob", "bomb.png"): huge_png(),
        ("bob", "wide.png"): sixteen_bit_png(),
        ("bob", "print.jpg"): cmyk_jpeg(),
        ("bob", "fine.bmp"): encoded(pixels(2), "BMP"),
        ("bob", "notes.txt"): b"hello",
    }
    folder = write_folder(tmp_path / "faces", images)
    (folder / "bob" / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "nobody").mkdir()
    assert found(folder) == {
        "undecodable": 2,
        "oversized": 1,
        "sixteen_bit": 1,
        "cmyk": 1,
        "unreadable": 1,
        "ignored_files": 1,
        "empty_folders": 1,
    }


def test_a_folder_that_packing_refuses_is_found(tmp_path):
    folder = write_folder(tmp_path / "faces", people({"ann": 3}).images)
    (folder / "ann" / "passwd.jpg").symlink_to("/etc/passwd")
    assert found(folder) == {"folder_refused": 1}


def test_a_file_too_large_for_an_image_is_found_and_never_held(tmp_path, monkeypatch):
    tars(tmp_path / "tars", [*sample("a"), *sample("b", content=jpeg(1) + bytes(5_000))])
    monkeypatch.setattr("data_pipeline.checking.tars.MAX_MEMBER_BYTES", 4_000)
    assert found(tmp_path / "tars") == {"too_large": 1}
    reindex(tars_of(str(tmp_path / "tars")), tmp_path / "index")
    report = report_of(tmp_path / "index")
    assert report.findings.counts == {"too_large": 1}
    assert report.findings.named["too_large"][0].sample == 1


def test_members_of_unknown_kinds_are_told(tmp_path):
    path = write_tar(tmp_path / "t.tar", sample("a"))
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("odd")
        info.type = b"V"  # the name of a volume, in GNU's form
        tar.addfile(info)
    assert found(path) == {"others": 1}
