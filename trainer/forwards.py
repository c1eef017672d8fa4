"""What is done to any backbone's forward: layout of images, inference, a replay in backward."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.layers.folding import fold_batch_norm


def channels_last(image: Tensor) -> Tensor:
    """The layout in which convolutions are fastest, on CPUs (1.1 to 1.4 times) and GPUs.

    Of the images alone: it spreads to the activations, while DeepSpeed wants contiguous weights.
    """
    return image.contiguous(memory_format=torch.channels_last)


def inference(
    network: nn.Module,
) -> Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, "batch embedding"]]:
    """The evaluation forward, without gradient; BatchNorm is folded, so nothing trains it again."""
    network.eval().requires_grad_(requires_grad=False)
    fold_batch_norm(network)
    return lambda image: network(channels_last(image))


class Recomputed(nn.Module):
    """A network whose training forward is replayed in backward instead of kept.

    It is DeepSpeed's module, so that the replay runs under the same autocast and gathered weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The network's own output."""
        if not torch.is_grad_enabled():
            return self.network(image)
        output = checkpoint(self.network, image, use_reentrant=False)
        assert isinstance(output, Tensor)
        return output
