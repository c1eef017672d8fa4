"""Who this process is: its rank, the ranks beside it, and the device it computes on.

The one place that asks torch.distributed for a rank and that chooses between CPU and GPU.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class Topology:
    """This process among the ranks of the run."""

    rank: int
    world_size: int
    local_rank: int
    """Place among the ranks of this node; picks the GPU."""
    device: torch.device
    group: dist.ProcessGroup

    @staticmethod
    def of_default_group() -> "Topology":
        """Read the process group that the launcher (Ray Train or `trainer.launch`) made."""
        assert dist.is_initialized(), "the launcher makes the process group"
        group = dist.group.WORLD
        assert group is not None
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        return Topology(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            local_rank=local_rank,
            device=choose_device(local_rank),
            group=group,
        )


def choose_device(local_rank: int) -> torch.device:
    """The GPU of this local rank where there are GPUs, the CPU elsewhere."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def choose_backend() -> str:
    """The collectives' backend that goes with `choose_device`."""
    return "nccl" if torch.cuda.is_available() else "gloo"
