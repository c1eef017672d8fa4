"""Members of a tar in one pass: those that `tarfile` finds, but a fault is never an end."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.tar_stream import TarStream

CONTENTS = {"a.jpg": b"x" * 700, "deep/" * 30 + "b.jpg": b"", "é/" + "c" * 150: b"y" * 512}


def tar_of(contents, *, form=tarfile.PAX_FORMAT, extra=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for member in extra:
            tar.addfile(member, io.BytesIO(b"z" * member.size))
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def members(content, *, limit=1 << 20):
    return list(TarStream(io.BytesIO(content), max_member_bytes=limit))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_offsets_and_contents_are_those_that_tarfile_finds(form):
    content = tar_of(CONTENTS, form=form)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    found = members(content)
    assert [(m.name, m.offset, m.size) for m in found] == expected
    assert [m.content for m in found] == list(CONTENTS.values())
    assert all(content[m.offset : m.offset + m.size] == m.content for m in found)


class Dripping(io.BytesIO):
    """A stream that gives a few bytes at a time, as sockets do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 100))


def test_a_stream_that_gives_little_at_a_time_is_read_whole():
    content = tar_of(CONTENTS)
    assert list(TarStream(Dripping(content), max_member_bytes=1 << 20)) == members(content)


def test_directories_links_and_devices_are_passed_over_and_counted():
    kinds = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    extra = []
    for number, kind in enumerate(kinds):
        member = tarfile.TarInfo(f"odd{number}")
        member.type, member.linkname = kind, "/etc/passwd"
        extra.append(member)
    tar = TarStream(io.BytesIO(tar_of({"a.jpg": b"1"}, extra=extra)), max_member_bytes=10)
    assert [m.name for m in tar] == ["a.jpg"]
    assert tar.passed_over == {"directories": 1, "links": 2, "devices": 2}


def test_a_member_over_the_limit_is_named_but_not_held():
    big, small = members(tar_of({"big.jpg": b"x" * 3000, "small.jpg": b"y"}), limit=2999)
    assert (big.size, big.content) == (3000, None)
    assert small.content == b"y"


def fault(content):
    with pytest.raises(DataError) as caught:
        members(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_header_in_the_middle_is_an_error_and_not_the_end():
    content = bytearray(tar_of({"a.jpg": b"1", "b.jpg": b"2"}, form=tarfile.USTAR_FORMAT))
    content[1024 + 10] ^= 1
    with tarfile.open(fileobj=io.BytesIO(bytes(content))) as tar:
        assert tar.getnames() == ["a.jpg"]  # what would be lost in silence
    assert "damaged header at byte 1024" in fault(bytes(content))


@pytest.mark.parametrize("length", [100, 512, 513, 1024, 1535, 1536, 1600, 2047])
def test_a_tar_cut_anywhere_before_its_end_mark_is_refused(length):
    content = tar_of({"a.jpg": b"x" * 600}, form=tarfile.USTAR_FORMAT)
    assert "it is cut" in fault(content[:length])
    assert len(members(content[:2048])) == 1  # a header, two blocks of content, one of zeros


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a tar" * 100, "is no tar"),
        (b"\x1f\x8b" + b"0" * 510, "compressed"),
        (tar_of({"a.jpg": b"1"}) + tar_of({"b.jpg": b"2"}), "after its end mark"),
    ],
)
def test_what_is_no_single_plain_tar_is_refused(content, reason):
    assert reason in fault(content)


@given(st.data())
def test_any_change_of_bytes_gives_members_or_one_error(data):
    content = bytearray(tar_of(CONTENTS))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    try:
        found = members(bytes(content))
    except DataError:
        return
    assert all(m.content is None or len(m.content) == m.size for m in found)
