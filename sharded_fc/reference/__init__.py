"""The same head written plainly: all logits, autograd, torch.optim, one process.

What the sharded head is compared with, in float64 for truth and in float32 for speed. It shares no
formula with it: margins come from acos or autograd, gradients from autograd, losses from
torch.nn.functional.
"""

from sharded_fc.reference.head import DenseHead
from sharded_fc.reference.loss import dense_loss

__all__ = ["DenseHead", "dense_loss"]
