"""The page shows what is wrong, to its owner alone, and nothing in it acts."""

import base64
import io
import os
import re
import stat

import pytest
from PIL import Image

from data_pipeline.checking.findings import NAMED
from data_pipeline.checking.page import page, write_page
from data_pipeline.errors import DataError
from tests.data_pipeline.checking.broken import packed, report_of, sample, write_tar
from tests.data_pipeline.faces import dataset_of, flip_byte
from tests.data_pipeline.pictures import jpeg


@pytest.fixture
def damaged(tmp_path):
    dataset = packed(tmp_path / "packed")
    flip_byte(dataset, 10)
    return report_of(dataset.path)


def test_a_damaged_face_is_shown_with_its_place(damaged):
    text = page([damaged])
    assert "sample 10" in text
    assert "the bytes of an image have changed" in text
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).format == "JPEG"


def test_nothing_wrong_is_said_so(tmp_path):
    assert "Nothing is wrong" in page([report_of(packed(tmp_path / "packed").path)])


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_may_read_it_from_its_first_moment(damaged, tmp_path, monkeypatch, umask):
    modes = []
    fdopen = os.fdopen

    def watched(descriptor, *arguments, **options):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return fdopen(descriptor, *arguments, **options)

    monkeypatch.setattr("data_pipeline.checking.page.os.fdopen", watched)
    before = os.umask(umask)
    try:
        write_page([damaged], tmp_path / "page.html")
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
    assert not (tmp_path / "page.html.partial").exists()


def test_a_page_is_replaced_and_any_other_file_is_left(damaged, tmp_path):
    path = tmp_path / "page.html"
    write_page([], path)
    write_page([damaged], path)
    assert "sample 10" in path.read_text()
    other = tmp_path / "mine.html"
    other.write_text("mine")
    link = tmp_path / "link.html"
    link.symlink_to(path)
    for taken in (other, link, tmp_path):
        with pytest.raises(DataError, match="choose another name"):
            write_page([damaged], taken)
    assert other.read_text() == "mine"


def test_names_do_nothing_in_the_page(tmp_path):
    name = "<img src=x onerror=alert(1)>\"'&"
    write_tar(tmp_path / "tars/<b>t.tar", [*sample(name), (f"{name}2.jpg", jpeg(1))])
    text = page([report_of(tmp_path / "tars")])
    assert "&lt;img src=x" in text
    assert "<img src=x" not in text
    assert "<b>t" not in text


def test_nothing_is_loaded_and_nothing_runs(damaged):
    text = page([damaged])
    assert "<script" not in text
    assert set(re.findall(r'(?:src|href|url)\W*["(]?(\w+):', text)) == {"data"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text


def test_the_page_is_bounded_however_much_is_wrong(tmp_path):
    contents = [jpeg(seed)[:400] for seed in range(10 * NAMED)]
    made = dataset_of(tmp_path / "faces", contents, [0] * len(contents), num_identities=1)
    text = page([report_of(made.path)])
    assert text.count("<li>") <= 2 * NAMED
    assert f"the first {NAMED} of {10 * NAMED}" in text
