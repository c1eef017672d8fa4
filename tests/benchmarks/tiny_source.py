"""A source of any number of tiny images that holds none of them, for benchmarks of packing."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

PICTURES = 64
START = 2  # a JPEG's first marker; a comment may follow it


@dataclass(frozen=True)
class TinySource:
    """`count` images of `side` x `side`, ten of each identity, all different in their bytes."""

    count: int
    side: int = 16
    pictures: list[bytes] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Encode the few pictures that all images are made of."""
        generator = np.random.default_rng(0)
        for _ in range(PICTURES):
            coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
            stream = io.BytesIO()
            coarse.resize((self.side, self.side), Image.Resampling.BICUBIC).save(stream, "JPEG")
            self.pictures.append(stream.getvalue())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Names as long as those of files usually are."""
        for number in range(self.count):
            yield f"identity-{number // 10:08d}", f"image-{number:010d}.jpg"

    def read(self, identity: str, image: str) -> bytes:
        """A picture with its name as a comment in it."""
        name = f"{identity}/{image}".encode()
        picture = self.pictures[int(image[6:16]) % PICTURES]
        comment = b"\xff\xfe" + (len(name) + 2).to_bytes(2, "big") + name
        return picture[:START] + comment + picture[START:]

    def counts(self) -> Mapping[str, int]:
        """Nothing is passed over."""
        return {}
