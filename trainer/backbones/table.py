"""The backbones that can be built, as a table that can be read without torch.

Counts are those of the default size: parameters with the affine part of batch normalisation, and
multiply-adds of convolutions and linear layers for one image.
"""

from dataclasses import dataclass

from trainer.errors import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """One row: how to build a network, and what it costs."""

    name: str
    builder: str
    """`module:class`, imported when the network is built."""
    embedding_dim: int
    image_size: tuple[int, int]
    """Height and width."""
    parameters: int
    multiply_adds: int
    paper: str
    note: str


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone(
            name="mobilefacenet",
            builder="trainer.backbones.mobilefacenet:MobileFaceNet",
            embedding_dim=128,
            image_size=(112, 112),
            parameters=1_003_136,
            multiply_adds=220_965_376,
            paper="arXiv:1804.07573",
            note="inverted bottlenecks, a global depthwise convolution instead of pooling",
        ),
        Backbone(
            name="vargfacenet",
            builder="trainer.backbones.vargfacenet:VarGFaceNet",
            embedding_dim=512,
            image_size=(112, 112),
            parameters=5_198_292,
            multiply_adds=512_593_440,
            paper="arXiv:1910.04985",
            note="grouped convolutions of eight channels a group, squeeze-and-excitation",
        ),
        Backbone(
            name="facenet_small",
            builder="trainer.backbones.facenet_small:FaceNetSmall",
            embedding_dim=128,
            image_size=(48, 48),
            parameters=1_077_568,
            multiply_adds=16_822_464,
            paper="none (ours)",
            note="the demo's: four halvings with two residual blocks, for small synthetic faces",
        ),
    )
}


def row(name: str) -> Backbone:
    """The row called `name`; the error lists all names."""
    if name not in BACKBONES:
        raise RunError(f"no backbone is called {name!r}; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def image_shape(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width; both must be multiples of 16, the stride of every backbone here."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height % 16 or width % 16 or height < 16 or width < 16:
        raise RunError(
            f"an image size of {height}x{width} does not fit a backbone of stride 16; "
            "use multiples of 16, such as 112"
        )
    return height, width
