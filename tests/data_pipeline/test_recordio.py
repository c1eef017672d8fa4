import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.recordio import framed, heads_at, pack_record, read_record, unpack_record
from tests.data_pipeline.recordio_files import MAGIC, image_record, part

LIMIT = 1 << 20

# Bytes in which the magic word is frequent, at multiples of four and elsewhere.
CONTENTS = st.lists(
    st.sampled_from([MAGIC, MAGIC[:1], MAGIC[:3], b"", b"\0\0\0\0", b"face", b"x"]), max_size=12
).map(b"".join)


def written(tmp_path: Path, content: bytes) -> int:
    path = tmp_path / "file"
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


def read(tmp_path: Path, content: bytes, offset: int = 0, limit: int = LIMIT) -> bytes:
    file = written(tmp_path, content)
    try:
        return read_record(file, offset, max_bytes=limit)
    finally:
        os.close(file)


def test_a_record_without_the_magic_word_is_one_part_as_dmlc_writes_it():
    assert framed(b"abcde") == part(0, b"abcde")
    assert framed(b"") == part(0, b"")


def test_a_record_is_cut_where_the_magic_word_stands_at_a_multiple_of_four():
    # By recordio.cc: kinds 1, 2, 3 for the first, middle and last part, the words left out.
    assert framed(b"face" + MAGIC + MAGIC + b"ab") == (
        part(1, b"face") + part(2, b"") + part(3, b"ab")
    )
    assert framed(MAGIC) == part(1, b"") + part(3, b"")
    assert framed(b"x" + MAGIC) == part(0, b"x" + MAGIC)


@given(before=CONTENTS, record=CONTENTS, after=CONTENTS)
def test_any_record_is_read_back_from_between_others(tmp_path_factory, before, record, after):
    content = framed(before) + framed(record) + framed(after)
    folder = tmp_path_factory.mktemp("record", numbered=True)
    assert read(folder, content, len(framed(before))) == record


@given(CONTENTS)
def test_a_record_never_holds_the_magic_word_at_a_multiple_of_four_but_where_a_part_begins(record):
    content = framed(record)
    places = [i for i in range(0, len(content), 4) if content[i : i + 4] == MAGIC]
    starts, at = [], 0
    while at < len(content):
        starts.append(at)
        length = int.from_bytes(content[at + 4 : at + 8], "little") & ((1 << 29) - 1)
        at += 8 + -(-length // 4) * 4
    assert places == starts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file ends at byte 0, inside a record"),
        (MAGIC, "the file ends at byte 4, inside a record"),
        (b"JFIF" + bytes(8), "no record begins or goes on at byte 0"),
        (part(2, b"abcd"), "no record begins or goes on at byte 0"),
        (part(0, b"abcdefgh")[:-4], "the file ends inside the record at byte 0"),
        (part(1, b"abcd"), "the file ends at byte 12, inside a record"),
        (part(1, b"abcd") + part(0, b"abcd"), "no record begins or goes on at byte 12"),
        (part(0, bytes(65)), "a record of more than 64 bytes"),
        (part(1, bytes(32)) + part(3, bytes(32)), "a record of more than 64 bytes"),
    ],
)
def test_what_is_no_record_is_said_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, limit=64)


@pytest.mark.parametrize("labels", [(3.0,), (3.0, 0.5), (1.0, 2.0, 3.0, 4.0)])
def test_records_are_packed_as_mxnet_packs_them_and_unpacked_again(labels):
    packed = pack_record(b"jpeg", labels=labels[0] if len(labels) == 1 else labels, number=7)
    assert packed == image_record(b"jpeg", *labels, number=7)
    assert unpack_record(packed) == (labels, b"jpeg")


@pytest.mark.parametrize("record", [b"", bytes(23), struct.pack("<IfQQf", 2, 0, 0, 0, 1.0)])
def test_a_record_shorter_than_its_header_is_refused(record):
    with pytest.raises(DataError, match=r"a record of [0-9]+ bytes"):
        unpack_record(record)


def test_heads_of_many_records_agree_with_reading_each():
    records = [
        image_record(b"abc", 5.0),
        image_record(b"", 4.0, 6.0),
        image_record(b"x", 7.0, 1.0),
        image_record(b"", 2.0),
    ]
    content = b"".join(map(framed, records))
    offsets = np.cumsum([0, *(len(framed(record)) for record in records[:-1])])
    heads = heads_at(np.frombuffer(content, np.uint8), offsets)
    assert heads.valid.all()
    assert heads.label.tolist() == [5.0, 4.0, 7.0, 2.0]
    assert heads.labels.tolist() == [0, 2, 2, 0]
    assert heads.has_content.tolist() == [True, False, True, False]


def test_heads_are_valid_only_where_a_whole_record_begins():
    claims_too_many_labels = struct.pack("<IfQQ", 9, 0, 0, 0)
    content = part(0, image_record(b"abcd", 1.0)) + part(0, claims_too_many_labels) + part(1, b"ab")
    offsets = np.array([-1, 0, 4, 36, len(content) - 12, len(content), 1 << 62])
    heads = heads_at(np.frombuffer(content, np.uint8), offsets)
    assert heads.valid.tolist() == [False, True, False, False, False, False, False]
    cut = np.frombuffer(part(0, image_record(b"abcd", 1.0))[:-1], np.uint8)
    assert not heads_at(cut, np.array([0])).valid.any()
