"""Dynamic region-aware convolution (DRConv, arXiv:2003.12243)."""

from trainer.layers.drconv.guide import Guide
from trainer.layers.drconv.layer import DRConv2d
from trainer.layers.drconv.picture import region_picture
from trainer.layers.drconv.usage import Usage, watching

__all__ = ["DRConv2d", "Guide", "Usage", "region_picture", "watching"]
