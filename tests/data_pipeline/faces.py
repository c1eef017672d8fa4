"""Tiny images and hand-made datasets, some of them damaged on purpose."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.index import INDEX, Dataset, index_text
from data_pipeline.shard_writer import ShardWriter


def jpeg(seed: int, *, height: int = 32, width: int = 32, mode: str = "RGB") -> bytes:
    """A smooth random picture, as every JPEG of a face is mostly smooth."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    picture.convert(mode).save(content, "JPEG", quality=90)
    return content.getvalue()


def dataset_of(
    folder: Path,
    contents: Sequence[bytes],
    labels: Sequence[int],
    *,
    num_identities: int = 5,
    image_size: tuple[int, int] | None = (32, 32),
    shard_bytes: int = 20_000,
) -> Dataset:
    """A packed dataset of exactly these bytes, whether or not they are images."""
    folder.mkdir()
    with ShardWriter(folder, shard_bytes=shard_bytes) as writer:
        for content, label in zip(contents, labels, strict=True):
            writer.add(content, label=label)
    dataset = Dataset(
        path=folder,
        num_samples=len(contents),
        num_identities=num_identities,
        image_size=image_size,
        shards=tuple(writer.shards),
        extras={},
        source={},
        unreadable=(),
    )
    (folder / INDEX).write_text(index_text(dataset))
    return Dataset.open(folder)


def flip_byte(dataset: Dataset, sample: int) -> None:
    """Change one bit in the middle of a sample's image; the tar keeps its size."""
    index, number = place_of(dataset, sample)
    offset, size, _, _ = dataset.members(index)[number].item()
    with (dataset.path / f"{dataset.shards[index].name}.tar").open("r+b") as tar:
        tar.seek(offset + size // 2)
        byte = tar.read(1)[0]
        tar.seek(offset + size // 2)
        tar.write(bytes([byte ^ 0x10]))


def place_of(dataset: Dataset, sample: int) -> tuple[int, int]:
    """The shard of a sample, and its number there."""
    for index, shard in enumerate(dataset.shards):
        if sample < shard.first_sample + shard.samples:
            return index, sample - shard.first_sample
    raise AssertionError(f"there is no sample {sample}")


def pixels(content: bytes) -> np.ndarray:
    """What Pillow makes of an image: RGB, height x width x 3, 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
