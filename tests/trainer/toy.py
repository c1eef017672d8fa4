"""Small networks and batches for tests of the engine, the step and the checkpoint."""

import torch
from torch import Tensor, nn

from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.topology import Topology

SIZE = 6
EMBEDDING_DIM = 5


class Plain(nn.Sequential):
    """A network without BatchNorm: micro-batches do not matter."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(16, EMBEDDING_DIM),
        )


class Normalised(nn.Sequential):
    """A network with BatchNorm, between the layers and on the embedding."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, stride=2, bias=False),
            BatchNorm2d(4),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(16, EMBEDDING_DIM),
            BatchNorm1d(EMBEDDING_DIM),
        )


def network(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """The network with seeded weights, the same on every rank and in the parent."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


def images(count: int, seed: int) -> Tensor:
    """Seeded noise in the shape of faces."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def topology() -> Topology:
    """This rank of the pool, on the CPU whatever the machine has."""
    found = Topology.of_default_group()
    return Topology(
        rank=found.rank,
        world_size=found.world_size,
        local_rank=found.rank,
        device=torch.device("cpu"),
        group=found.group,
    )
