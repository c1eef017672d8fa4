"""What makes a translation-variant convolution's weights: affinity maps and a small network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 3  # of all its convolutions, as in the released code


class WeightBlock(nn.Module):
    """Affinity maps, convolutions with LayerNorm and ReLU, and one convolution to all weights.

    It depends on no image: one run serves a batch, a step, or a network's whole life after
    training. It computes in its parameters' precision, also under autocast: LayerNorm sums over all
    of a map. Its convolutions are drawn as in the released code, by He et al. over outputs. The
    maps begin as ones; weight decay does not change what they mean, since LayerNorm takes the scale
    out of the convolution that reads them.
    """

    def __init__(
        self,
        *,
        channels: int,
        taps: int,
        map_size: tuple[int, int],
        affinity_channels: int,
        hidden: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.taps = taps
        self.affinity = nn.Parameter(torch.ones(1, affinity_channels, *map_size))
        self.hidden = nn.Sequential()
        inputs = affinity_channels
        for _ in range(layers + 1):
            self.hidden.append(nn.Conv2d(inputs, hidden, WIDTH, padding=WIDTH // 2, bias=False))
            self.hidden.append(nn.LayerNorm([hidden, *map_size]))
            self.hidden.append(nn.ReLU())
            inputs = hidden
        # Tap by tap, all channels of one: the order in which the product reads them.
        self.last = nn.Conv2d(hidden, taps * channels, WIDTH, padding=WIDTH // 2, bias=False)
        self._owners = [module for module in self.modules() if module._parameters]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def present_parameters(self) -> tuple[nn.Parameter, ...]:
        """All parameters, as they are now; `parameters()` looks through all modules for them."""
        each = (owner._parameters.values() for owner in self._owners)
        return tuple(parameter for some in each for parameter in some if parameter is not None)

    def forward(self) -> Float[Tensor, "height width taps channels"]:
        """The weights of every output position."""
        device = self.affinity.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return self._weights()
        with torch.autocast(device, enabled=False):
            return self._weights()

    def _weights(self) -> Tensor:
        maps = self.last(self.hidden(self.affinity).contiguous(memory_format=torch.channels_last))
        return maps.permute(0, 2, 3, 1).squeeze(0).unflatten(2, (self.taps, -1)).contiguous()

    @property
    def multiply_adds(self) -> int:
        """Of one run."""
        height, width = self.affinity.shape[2:]
        return (
            height
            * width
            * sum(
                module.weight.numel() for module in self.modules() if isinstance(module, nn.Conv2d)
            )
        )
