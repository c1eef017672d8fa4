"""First weights of convolutional networks, each as the network's paper or code draws them.

BatchNorm and PReLU keep torch's ones, zeros and 0.25; biases begin at 0.
"""

from collections.abc import Callable

from torch import Tensor, nn

PRELU_SLOPE = 0.25  # torch's and the PReLU paper's first slope (arXiv:1502.01852)


def draw(
    network: nn.Module,
    *,
    convolution: Callable[[Tensor], object] | None,
    linear: Callable[[Tensor], object] | None,
) -> None:
    """Draw convolutions and linear layers in the modules' order; None leaves torch's own."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and convolution is not None:
            convolution(layer.weight)
        elif isinstance(layer, nn.Linear) and linear is not None:
            linear(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialise(network: nn.Module, *, slope: float = PRELU_SLOPE) -> None:
    """Draw convolutions by He et al. (arXiv:1502.01852, eq. 14) for PReLU, linear layers likewise.

    The fan counts the inputs of one output, k*k*channels/groups, so grouped and depthwise layers
    keep the scale of their input too (torch's fan-out ignores groups). A `slope` of 0 is ReLU's.
    """

    def he_fan_in(weight: Tensor) -> None:
        nn.init.kaiming_normal_(weight, a=slope, mode="fan_in")

    draw(network, convolution=he_fan_in, linear=he_fan_in)


def he_fan_out(weight: Tensor) -> None:
    """He's rule for ReLU by the outputs: N(0, 2 / (k*k*outputs)), groups or not."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def normal(deviation: float) -> Callable[[Tensor], object]:
    """N(0, deviation^2)."""
    return lambda weight: nn.init.normal_(weight, 0.0, deviation)
