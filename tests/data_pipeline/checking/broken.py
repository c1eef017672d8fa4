"""Datasets and tars with one thing wrong, for the tests of checks and repairs."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.checking.check import check
from data_pipeline.checking.report import Report
from data_pipeline.index import INDEX, MEMBER, Dataset, file_of, index_text
from data_pipeline.pack import pack
from tests.data_pipeline.pictures import encoded, jpeg, people, pixels

PEOPLE = {"ann": 9, "bob": 7, "eve": 8}
SHARD_BYTES = 20_000


def packed(path: Path) -> Dataset:
    """A sound dataset of some shards."""
    dataset = pack(people(PEOPLE), path, shard_bytes=SHARD_BYTES)
    assert len(dataset.shards) >= 3
    return dataset


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar of regular members as others write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, label: str = "1", content: bytes | None = None) -> list[tuple[str, bytes]]:
    """The two members of a sample."""
    number = sum(key.encode())
    return [(f"{key}.jpg", content or jpeg(number)), (f"{key}.cls", label.encode())]


def found(path: Path) -> dict[str, int]:
    """What a check of the path counts, by kind."""
    return dict(report_of(path).findings.counts)


def report_of(path: Path, *, workers: int = 1) -> Report:
    return check(str(path), workers=workers)


def sixteen_bit_png() -> bytes:
    return encoded(Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "PNG")


def cmyk_jpeg() -> bytes:
    return encoded(Image.fromarray(pixels(3)).convert("CMYK"))


def huge_png() -> bytes:
    """A header that asks for 10 Gpixels, and next to nothing after it."""
    content = bytearray(encoded(pixels(0), "PNG"))
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    return bytes(content)


def rewrite_records(dataset: Dataset, index: int, change: Callable[[np.ndarray], None]) -> Dataset:
    """Change a shard's records, and the index so that it agrees: what a wrong writer leaves."""
    shard = dataset.shards[index]
    path = dataset.path / f"{shard.name}.members"
    records = np.fromfile(path, MEMBER)
    change(records)
    path.write_bytes(records.tobytes())
    shards = list(dataset.shards)
    shards[index] = replace(shard, members=file_of(path))
    changed = replace(dataset, shards=tuple(shards))
    (dataset.path / INDEX).write_text(index_text(changed))
    return changed
