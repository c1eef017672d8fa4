"""What the samples of a foreign WebDataset tar are: which member is an image, whose face it is.

A sample is a run of members with the same key; the key is a name up to the first dot of its last
part, the rest says what the member is (WebDataset's rule, so `a.b.jpg` is a `b.jpg` and no image).
One image (`jpg`, `jpeg`, `png`, `webp`) and one label belong to each: a `cls` with a number or a
name as text, or a `json` with one of `LABEL_KEYS`. Whatever else lies there is passed over. A
sample that lacks one of them, or whose image's header cannot be read, is left out and counted.
"""

import hashlib
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

import numpy as np
from PIL import Image

from data_pipeline.image_header import MAX_IMAGE_BYTES, MAX_PIXELS, ORIENTATION, TRANSPOSED
from data_pipeline.index_file import MEMBER, File
from data_pipeline.tar_stream import Member, Readable, TarStream

IMAGES = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP")
LABELS = ("cls", "json")
LABEL_KEYS = ("label", "cls", "identity", "class")
MAX_MEMBER_BYTES = MAX_IMAGE_BYTES
MOST_LABEL_CHARACTERS = 200
NAMED = 20  # samples left out that are named; all are counted

_DECIMAL = re.compile(r"[0-9]{1,18}")


@dataclass(kw_only=True)
class Survey:
    """What one tar holds, as far as an index says it."""

    records: np.ndarray
    """Of type `MEMBER`; `label` counts within `labels`."""
    labels: list[str]
    """The labels as written, each once; whole numbers without leading zeros."""
    idx: list[str]
    """A line a sample in the form of DALI's `wds2idx`."""
    tar: File
    image_size: tuple[int, int] | None
    """(height, width) where all images agree."""
    counts: Counter[str] = field(default_factory=Counter)
    """Members passed over and samples left out, by reason."""
    left_out: list[str] = field(default_factory=list)
    """The first samples that were left out, each with the reason."""


class LeftOut(Exception):
    """A sample that cannot be used; the message is the reason, of a few fixed ones."""


class TarSample(NamedTuple):
    """The members of one key that make a sample."""

    image: Member
    label: str
    """As written; whole numbers without leading zeros."""
    members: list[Member]
    """Of the label and the image."""


def survey(stream: Readable) -> Survey:
    """Read a tar once, from its first byte to its last.

    Raises:
        DataError: the tar is cut, damaged, compressed or none.
    """
    hashing = HashingStream(stream)
    tar = TarStream(hashing, max_member_bytes=MAX_MEMBER_BYTES)
    counts: Counter[str] = Counter()
    left_out: list[str] = []
    label_numbers: dict[str, int] = {}
    records, idx, sizes = [], [], set()
    for key, members in groupby(tar, key=lambda member: split(member.name)[0]):
        try:
            sample = sample_of(members, counts)
            if sample is None:
                continue
            sizes.add(image_size_of(sample.image))
        except LeftOut as error:
            counts.update((str(error), "left_out"))
            if len(left_out) < NAMED:
                left_out.append(f"{key!r}: {error}")
            continue
        image = sample.image
        content = image.content or b""
        label = label_numbers.setdefault(sample.label, len(label_numbers))
        records.append((image.offset, image.size, crc32(content), label))
        idx.append(_idx_line(sample.members, number=len(records) - 1))
    return Survey(
        records=np.array(records, MEMBER),
        labels=list(label_numbers),
        idx=idx,
        tar=File(bytes=hashing.bytes, sha256=hashing.digest.hexdigest()),
        image_size=sizes.pop() if len(sizes) == 1 else None,
        counts=counts + tar.passed_over,
        left_out=left_out,
    )


def split(name: str) -> tuple[str, str]:
    """(key, what comes after the first dot of the last part, in small letters)."""
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    return folder + slash + stem, suffix.lower()


def sample_of(members: Iterable[Member], counts: Counter[str]) -> TarSample | None:
    """A key's members as a sample; `None` if they are not meant as one (a lone `README`).

    Raises:
        LeftOut: they are meant as one, and are none.
    """
    found: dict[str, Member] = {}
    for member in members:
        suffix = split(member.name)[1]
        if suffix not in IMAGES + LABELS:
            counts["other_members"] += 1
        elif suffix in found:
            raise LeftOut("repeated_member")
        else:
            found[suffix] = member
    if not found:
        return None
    images = [found[suffix] for suffix in IMAGES if suffix in found]
    if len(images) != 1:
        raise LeftOut("several_images" if images else "no_image")
    labels = [found[suffix] for suffix in LABELS if suffix in found]
    if not labels:
        raise LeftOut("no_label")
    parse = _text_label if "cls" in found else _json_label
    label = parse(labels[0].content or b"")
    return TarSample(images[0], label, [labels[0], images[0]])


def _text_label(content: bytes) -> str:
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise LeftOut("bad_label") from None
    if not text or len(text) > MOST_LABEL_CHARACTERS or not text.isprintable():
        raise LeftOut("bad_label")
    if re.fullmatch(r"-[0-9]+", text):
        raise LeftOut("negative_label")
    return str(int(text)) if _DECIMAL.fullmatch(text) else text


def _json_label(content: bytes) -> str:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        raise LeftOut("bad_label") from None
    if isinstance(told, dict):
        told = next((told[key] for key in LABEL_KEYS if key in told), None)
    if told is None:
        raise LeftOut("no_label")
    if isinstance(told, bool) or not isinstance(told, int | str):
        raise LeftOut("bad_label")
    return _text_label(str(told).encode("utf-8", "surrogatepass"))


def image_size_of(member: Member) -> tuple[int, int]:
    """(height, width) as decoders show it, from the header alone."""
    if member.content is None:
        raise LeftOut("too_large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and sizes that are checked below
        try:
            with Image.open(io.BytesIO(member.content), formats=FORMATS) as image:
                width, height = image.size
                if image.getexif().get(ORIENTATION) in TRANSPOSED:
                    width, height = height, width
        except Image.DecompressionBombError:
            raise LeftOut("too_large") from None
        except Exception as error:  # Pillow's parsers raise anything, SyntaxError included
            raise LeftOut("not_an_image") from error
    if width * height > MAX_PIXELS:
        raise LeftOut("too_large")
    return height, width


def _idx_line(members: list[Member], *, number: int) -> str:
    """Names serve only for messages there, and may hold blanks, so each is a number of ours."""
    parts = []
    for member in members:
        suffix = split(member.name)[1]
        parts.append(f"{suffix} {member.offset} {member.size} {number:09d}.{suffix}")
    return " ".join(parts) + "\n"


class HashingStream:
    """A stream that knows the size and sha256 of what was read of it."""

    def __init__(self, stream: Readable) -> None:
        self.digest = hashlib.sha256()
        self.bytes = 0
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        """As the stream's own."""
        content = self._stream.read(size)
        self.digest.update(content)
        self.bytes += len(content)
        return content
