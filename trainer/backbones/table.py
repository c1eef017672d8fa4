"""The backbones that can be built, as a table that can be read without torch.

Counts are those of the default size: parameters that learn, with the affine part of batch
normalisation, and multiply-adds of convolutions, linear layers and attention for one image.
Every network takes pixels (x - 127.5) / 127.5, RGB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.errors import RunError

ARCFACE_TORCH = "arXiv:1801.07698"
Family = Literal["iresnet", "mbf", "vit"]
"""Networks of arcface_torch, whose published weights can be imported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """One row: how to build a network, and what it costs."""

    name: str
    builder: str
    """`module:class`, imported when the network is built."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the class is told beyond embedding and image size."""
    embedding_dim: int
    image_size: tuple[int, int]
    """Height and width."""
    parameters: int
    multiply_adds: int
    ending: str
    """The layers that embeddings come out of."""
    paper: str
    note: str
    arcface_torch: Family | None = None


def _iresnet(depth: int, repeats: tuple[int, ...], parameters: int, multiply_adds: int) -> Backbone:
    return Backbone(
        name=f"iresnet{depth}",
        builder="trainer.backbones.iresnet:IResNet",
        arguments={"repeats": repeats},
        embedding_dim=512,
        image_size=(112, 112),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="linear, BatchNorm of scale 1",
        paper=ARCFACE_TORCH,
        note=f"arcface_torch's r{depth}: residual, and a linear layer over the whole last map",
        arcface_torch="iresnet",
    )


def _vit(
    size: str, dim: int, depth: int, left_out: float, parameters: int, multiply_adds: int
) -> Backbone:
    return Backbone(
        name=f"vit_{size}",
        builder="trainer.backbones.vit:VisionTransformer",
        arguments={"dim": dim, "depth": depth, "drop_path": 0.05, "left_out": left_out},
        embedding_dim=512,
        image_size=(112, 112),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="linear, BatchNorm",
        paper="arXiv:2010.11929",
        note=f"arcface_torch's, as for WebFace42M: {depth} blocks of {dim}, patches of 9 pixels",
        arcface_torch="vit",
    )


def _mbf(
    name: str, repeats: tuple[int, ...], scale: int, parameters: int, multiply_adds: int
) -> Backbone:
    return Backbone(
        name=name,
        builder="trainer.backbones.mbf:MBF",
        arguments={"repeats": repeats, "scale": scale},
        embedding_dim=512,
        image_size=(112, 112),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="linear, BatchNorm",
        paper="arXiv:1804.07573",
        note=f"arcface_torch's {name}: MobileFaceNet made {scale} times as wide",
        arcface_torch="mbf",
    )


def _mobilenetv2(percent: int, parameters: int, multiply_adds: int) -> Backbone:
    return Backbone(
        name=f"mobilenetv2_{percent:03d}",
        builder="trainer.backbones.mobilenetv2:MobileNetV2",
        arguments={"width": percent / 100},
        embedding_dim=512,
        image_size=(96, 96),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="mean, linear, BatchNorm",
        paper="arXiv:1801.04381",
        note=f"width {percent / 100:g}, without the stem's stride, as TVConv's authors train it",
    )


def _vargnet(
    version: int,
    percent: int,
    normal_blocks: tuple[int, ...],
    parameters: int,
    multiply_adds: int,
) -> Backbone:
    return Backbone(
        name=f"vargnet_v{version}_{percent:03d}",
        builder="trainer.backbones.vargnet:VarGNet",
        arguments={
            "normal_blocks": normal_blocks,
            "head_block": version == 2,
            "width": percent / 100,
        },
        embedding_dim=512,
        image_size=(112, 112),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="mean, linear, BatchNorm",
        paper="arXiv:1907.05653",
        note=f"version {version}, width {percent / 100:g}, without the stem's stride",
    )


def _shufflenetv2(
    name: str,
    channels: tuple[int, int, int],
    split: str,
    parameters: int,
    multiply_adds: int,
    note: str,
) -> Backbone:
    return Backbone(
        name=name,
        builder="trainer.backbones.shufflenetv2:ShuffleNetV2",
        arguments={"channels": channels, "split": split},
        embedding_dim=512,
        image_size=(112, 112),
        parameters=parameters,
        multiply_adds=multiply_adds,
        ending="mean, linear, BatchNorm",
        paper="arXiv:1807.11164",
        note=note,
    )


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
            ending="1x1 convolution, BatchNorm",
            paper="arXiv:1804.07573",
            note="inverted bottlenecks, a global depthwise convolution instead of pooling",
        ),
        Backbone(
            name="mobilefacenet_512",
            builder="trainer.backbones.mobilefacenet:MobileFaceNet",
            embedding_dim=512,
            image_size=(112, 112),
            parameters=1_200_512,
            multiply_adds=221_161_984,
            ending="1x1 convolution, BatchNorm",
            paper="arXiv:1804.07573",
            note="the same with 512 numbers a face",
        ),
        _mbf("mbf", (1, 4, 6, 2), 2, 2_059_520, 437_520_896),
        _mbf("mbf_large", (2, 8, 12, 4), 4, 6_314_880, 1_816_482_816),
        Backbone(
            name="vargfacenet",
            builder="trainer.backbones.vargfacenet:VarGFaceNet",
            embedding_dim=512,
            image_size=(112, 112),
            parameters=5_198_292,
            multiply_adds=512_593_440,
            ending="linear, BatchNorm",
            paper="arXiv:1910.04985",
            note="grouped convolutions of eight channels a group, squeeze-and-excitation",
        ),
        Backbone(
            name="vargfacenet_112x96",
            builder="trainer.backbones.vargfacenet:VarGFaceNet",
            embedding_dim=512,
            image_size=(112, 96),
            parameters=5_140_948,
            multiply_adds=439_512_096,
            ending="linear, BatchNorm",
            paper="arXiv:1910.04985",
            note="the same for faces of 112 x 96",
        ),
        _vargnet(1, 100, (0, 0, 2, 1), 5_038_880, 619_696_128),
        _vargnet(2, 50, (2, 6, 3), 1_410_768, 130_329_600),
        _vargnet(2, 100, (2, 6, 3), 3_114_400, 359_684_096),
        _mobilenetv2(10, 324_672, 18_023_680),
        _mobilenetv2(50, 827_968, 66_260_224),
        _mobilenetv2(100, 2_241_280, 211_451_392),
        _shufflenetv2(
            "shufflenetv2_050", (48, 96, 192), "halves", 869_664, 39_976_736, "width 0.5"
        ),
        _shufflenetv2(
            "shufflenetv2_100",
            (116, 232, 464),
            "halves",
            1_781_476,
            144_408_280,
            "width 1, torchvision's split: both branches of a halving unit give half",
        ),
        _shufflenetv2(
            "shufflenetv2_100_keep_left",
            (116, 232, 464),
            "keep_left",
            1_782_632,
            145_314_584,
            "width 1, the authors' split: halving units leave the left branch its channels",
        ),
        _iresnet(18, (2, 2, 2, 2), 24_025_088, 2_609_954_816),
        _iresnet(34, (3, 4, 6, 3), 34_138_816, 4_459_642_880),
        _iresnet(50, (3, 4, 14, 3), 43_590_336, 6_309_330_944),
        _iresnet(100, (3, 13, 30, 3), 65_155_648, 12_089_606_144),
        _iresnet(200, (6, 26, 60, 6), 118_833_408, 23_418_945_536),
        _vit("t", 256, 12, 0.0, 19_137_536, 1_504_882_688),
        _vit("s", 512, 12, 0.0, 76_022_784, 5_746_548_736),
        _vit("b", 512, 24, 0.05, 113_833_472, 11_437_170_688),
        _vit("l", 768, 24, 0.05, 255_684_352, 25_337_794_560),
        Backbone(
            name="facenet_small",
            builder="trainer.backbones.facenet_small:FaceNetSmall",
            embedding_dim=128,
            image_size=(48, 48),
            parameters=1_077_568,
            multiply_adds=16_822_464,
            ending="1x1 convolution, BatchNorm",
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
    """Height and width; most backbones halve them four times."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 16 or width < 16:
        raise RunError(
            f"an image size of {height}x{width} is too small for a backbone that halves it four "
            "times; use at least 16, usually 112"
        )
    return height, width
