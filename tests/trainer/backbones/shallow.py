"""A network of each builder in the table, with as few blocks as show all of its wiring."""

from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest.mock import patch

from torch import nn

ROWS = (((2, 16, 2, 2),), ((2, 24, 1, 2), (2, 24, 1, 1)), ((2, 32, 1, 2),))
BUILDERS: dict[str, dict[str, Any]] = {
    "mobilefacenet:MobileFaceNet": {},
    "mbf:MBF": {"repeats": (1, 1, 1, 1), "scale": 1},
    "vargfacenet:VarGFaceNet": {},
    "vargnet:VarGNet": {"normal_blocks": (1, 0, 1, 1), "head_block": False, "width": 0.5},
    "mobilenetv2:MobileNetV2": {"width": 0.5},
    "shufflenetv2:ShuffleNetV2": {"channels": (56, 112, 224), "split": "keep_left"},
    "iresnet:IResNet": {"repeats": (1, 1, 1, 1)},
    "vit:VisionTransformer": {"dim": 32, "depth": 2, "left_out": 0.05},
    "facenet_small:FaceNetSmall": {},
}
"""By module and class, with what the class is told."""
FEWER: dict[str, dict[str, Any]] = {
    "mobilefacenet": {"STAGES": ROWS},
    "vargfacenet": {"NORMAL_BLOCKS": (1, 1, 1)},
    "mobilenetv2": {"STAGES": (((2, 8, 1, 2),), *ROWS)},
    "shufflenetv2": {"REPEATS": (2, 1, 1)},
}
"""Tables of blocks that are constants of a module, with fewer of them."""


def shallow(name: str, *, side: int, embedding_dim: int = 16) -> nn.Module:
    """One of `BUILDERS`, for faces of this side."""
    file, builder = name.split(":")
    module = import_module(f"trainer.backbones.{file}")
    with ExitStack() as patches:
        for constant, value in FEWER.get(file, {}).items():
            patches.enter_context(patch.object(module, constant, value))
        make = getattr(module, builder)
        return make(embedding_dim=embedding_dim, image_size=(side, side), **BUILDERS[name])
