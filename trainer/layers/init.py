"""First weights of convolutional networks."""

from torch import nn

PRELU_SLOPE = 0.25  # torch's and the PReLU paper's first slope (arXiv:1502.01852)


def initialise(network: nn.Module) -> None:
    """Draw convolutions by He et al. (arXiv:1502.01852, eq. 14) for PReLU, linear layers likewise.

    The fan counts the inputs of one output, k*k*channels/groups, so grouped and depthwise layers
    keep the scale of their input too (torch's fan-out ignores groups). Batch normalisation and
    PReLU keep torch's ones, zeros and 0.25.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=PRELU_SLOPE, mode="fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
