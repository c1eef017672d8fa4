"""The unit that backbones are made of: convolution, batch normalisation, PReLU."""

from torch import nn

from trainer.layers.batch_norm import BatchNorm2d


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    eps: float = 1e-5,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and a PReLU with one slope a channel if `activation`."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False
        ),
        BatchNorm2d(outputs, eps=eps),
    ]
    if activation:
        layers.append(nn.PReLU(outputs))
    return nn.Sequential(*layers)
