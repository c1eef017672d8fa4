"""Translation-variant convolution (TVConv): layer, product, form for inference, picture."""

from trainer.layers.tvconv.folded import FoldedTVConv2d, fold_tvconv
from trainer.layers.tvconv.layer import TVConv2d
from trainer.layers.tvconv.product import varying_depthwise

__all__ = ["FoldedTVConv2d", "TVConv2d", "fold_tvconv", "varying_depthwise"]
