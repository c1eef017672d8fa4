import os

import pytest

from data_pipeline.errors import DataError
from data_pipeline.sources import for_workers
from data_pipeline.sources.folder import MAX_IMAGE_BYTES, FolderSource
from tests.data_pipeline.pictures import jpeg, write_folder

FACES = {("ann", "1.jpg"): jpeg(1), ("ann", "2.PNG"): jpeg(2), ("Zoë Ω", "a b.jpeg"): jpeg(3)}


def test_a_folder_lists_the_images_of_each_identity_and_reads_their_bytes(tmp_path):
    source = FolderSource.open(write_folder(tmp_path, FACES))
    assert set(source) == set(FACES)
    assert source.images["ann"] == ("1.jpg", "2.PNG")
    assert {key: source.read(*key) for key in source} == FACES


def test_worker_processes_get_no_listing_but_read_all_the_same(tmp_path):
    light = for_workers(FolderSource.open(write_folder(tmp_path, FACES)))
    assert {key: light.read(*key) for key in FACES} == FACES
    assert list(light) == []


def test_what_is_no_image_is_passed_over_and_counted(tmp_path):
    write_folder(tmp_path, FACES)
    write_folder(tmp_path, {("ann", "notes.txt"): b"x", ("ann", ".hidden.jpg"): b"x"})
    write_folder(tmp_path / "ann", {("deeper", "1.jpg"): b"x"})
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "nobody").mkdir()
    source = FolderSource.open(tmp_path)
    assert set(source) == set(FACES)
    assert source.counts() == {"ignored_files": 5, "empty_identities": 1}


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"the source .*/nowhere does not exist"):
        FolderSource.open(tmp_path / "nowhere")


def test_a_file_is_no_source(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="is not a folder of <identity>/<image>"):
        FolderSource.open(tmp_path / "file")


def test_an_empty_source_says_what_was_expected(tmp_path):
    (tmp_path / "ann").mkdir()
    with pytest.raises(
        DataError, match=r"holds no images: expected <identity>/<image> with.*\.jpg"
    ):
        FolderSource.open(tmp_path)


def test_links_inside_the_source_are_followed(tmp_path):
    write_folder(tmp_path / "faces", FACES)
    (tmp_path / "faces" / "ann" / "3.jpg").symlink_to("1.jpg")
    (tmp_path / "faces" / "bob").symlink_to("ann")
    (tmp_path / "link").symlink_to("faces")
    source = FolderSource.open(tmp_path / "link")
    assert source.read("ann", "3.jpg") == FACES["ann", "1.jpg"]
    assert source.images["bob"] == ("1.jpg", "2.PNG", "3.jpg")


@pytest.mark.parametrize("link", ["ann/9.jpg", "stranger"])
def test_links_out_of_the_source_are_refused(tmp_path, link):
    write_folder(tmp_path / "faces", FACES)
    write_folder(tmp_path, {("secret", "1.jpg"): b"private"})
    target = "../../secret/1.jpg" if "/" in link else tmp_path / "secret"
    (tmp_path / "faces" / link).symlink_to(target)
    with pytest.raises(DataError, match=r"is a link to a place outside of"):
        FolderSource.open(tmp_path / "faces")


def test_a_broken_link_is_an_unreadable_image(tmp_path):
    write_folder(tmp_path, FACES)
    (tmp_path / "ann" / "9.jpg").symlink_to("gone.jpg")
    source = FolderSource.open(tmp_path)
    assert ("ann", "9.jpg") in set(source)
    with pytest.raises(FileNotFoundError):
        source.read("ann", "9.jpg")


def test_pipes_and_devices_are_never_opened(tmp_path):
    write_folder(tmp_path, FACES)
    os.mkfifo(tmp_path / "ann" / "9.jpg")
    source = FolderSource.open(tmp_path)  # would wait for a writer for ever
    assert set(source) == set(FACES)
    assert source.ignored_files == 1


def test_a_huge_file_is_not_read_into_memory(tmp_path):
    write_folder(tmp_path, FACES)
    with (tmp_path / "ann" / "9.jpg").open("wb") as stream:
        stream.truncate(MAX_IMAGE_BYTES + 1)
    with pytest.raises(DataError, match="the limit is"):
        FolderSource.open(tmp_path).read("ann", "9.jpg")


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    write_folder(tmp_path, FACES)
    write_folder(tmp_path, {(os.fsdecode(b"J\xe9r\xf4me"), "1.jpg"): jpeg(1)})
    with pytest.raises(DataError, match=r"the name b'J\\xe9r\\xf4me' in .* is not UTF-8"):
        FolderSource.open(tmp_path)
