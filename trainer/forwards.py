"""What is done to any backbone's forward: the layout of images, and a replay in backward."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def channels_last(image: Tensor) -> Tensor:
    """The layout in which convolutions are fastest, on CPUs (1.1 to 1.4 times) and GPUs.

    Of the images alone: it spreads to the activations, while DeepSpeed wants contiguous weights.
    """
    return image.contiguous(memory_format=torch.channels_last)


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
