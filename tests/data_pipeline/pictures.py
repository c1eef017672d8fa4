"""Small images and sources of them, for the tests of this folder."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.errors import DataError


def pixels(seed: int, size: int = 16) -> np.ndarray:
    """A smooth colour pattern, different for each seed."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = generator.uniform(1, 6, (3, 1, 1)) * x + generator.uniform(1, 6, (3, 1, 1)) * y
    values = 127.5 + 127.5 * np.sin(waves + generator.uniform(0, 6, (3, 1, 1)))
    return values.astype(np.uint8).transpose(1, 2, 0)


def detailed(seed, side=112):
    """A random picture with detail at all scales, coarse ones strongest, as photographs have."""
    generator = np.random.default_rng(seed)
    values = np.zeros((side, side, 3))
    for cells in (2, 4, 8, 16):
        coarse = generator.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        values += np.asarray(Image.fromarray(coarse).resize((side, side))) / cells
    return (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "JPEG", **options: object) -> bytes:
    """The image in a file format."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def jpeg(seed: int, size: int = 16) -> bytes:
    """A sound RGB JPEG."""
    return encoded(pixels(seed, size), quality=90)


@dataclass(frozen=True)
class MemorySource:
    """A source of images that are held in memory."""

    images: Mapping[tuple[str, str], bytes]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.images)

    def read(self, identity: str, image: str) -> bytes:
        content = self.images[identity, image]
        if not content:
            raise DataError("nothing there")
        return content

    def counts(self) -> Mapping[str, int]:
        return {"ignored_files": 2}


def people(counts: Mapping[str, int], *, size: int = 16) -> MemorySource:
    """A source with so many images of each name."""
    names = [(name, f"{k}.jpg") for name, count in counts.items() for k in range(count)]
    return MemorySource({name: jpeg(seed, size) for seed, name in enumerate(names)})


def write_folder(root: Path, images: Mapping[tuple[str, str], bytes]) -> Path:
    """The same images as `<root>/<identity>/<image>`."""
    for (identity, image), content in images.items():
        (root / identity).mkdir(parents=True, exist_ok=True)
        (root / identity / image).write_bytes(content)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
