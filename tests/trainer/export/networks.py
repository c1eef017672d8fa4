"""Networks that look trained, and runs of them, for the tests of export."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from tests.trainer.test_manifest import example
from trainer import build, checkpoint, config, manifest
from trainer.export.source import Source
from trainer.layers.batch_norm import BatchNorm1d, BatchNorm2d
from trainer.layers.conv import conv_norm, depthwise
from trainer.tensor_file import write_tensors

SIDE = 16
Network = TypeVar("Network", bound=nn.Module)


def as_if_trained(network: Network) -> Network:
    """The network, with statistics, scales, shifts and slopes that have moved from their start."""
    for part in network.modules():
        if isinstance(part, BatchNorm1d | BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.3)
            part.weight.data.uniform_(0.5, 1.5)
        elif isinstance(part, nn.PReLU):
            part.weight.data.uniform_(-0.1, 0.5)
    return network.eval()


def tiny() -> nn.Sequential:
    """Three convolutions, with linear layer and BatchNorm at the end, for faces of 16 pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(
        conv_norm(3, 8, 3, stride=2, padding=1),
        depthwise(8, stride=2),
        conv_norm(8, 12, activation="relu"),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 6),
        BatchNorm1d(6),
    )
    return as_if_trained(network)


def source(network: nn.Module, *, side: int = SIDE, **changes) -> Source:
    """What is exported for a network that no table knows."""
    plain = Source(
        network=network,
        model="tiny",
        embedding_dim=6,
        image_size=(side, side),
        trained=False,
        facts={},
    )
    return replace(plain, **changes)


SMALL = "{name: facenet_small, embedding_dim: 8}"


def run_folder(folder: Path, *, data: Path, side: int = SIDE, backbone: str = SMALL) -> Path:
    """A run with one checkpoint, as training leaves it but for the head."""
    (folder / "run.yaml").parent.mkdir(parents=True)
    (folder / "run.yaml").write_text(
        f"name: a-run\nsteps: 30\ndata: {{path: {data}, image_size: {side}}}\n"
        f"backbone: {backbone}\n"
        "batch: {micro_batches: 2, micro_batch_size: 4}\n"
    )
    run = config.load(folder / "run.yaml")
    torch.manual_seed(0)
    tensors = as_if_trained(build.network(run)).state_dict()
    step = folder / "checkpoints" / "step-000000012"
    step.mkdir(parents=True)
    files = {checkpoint.BACKBONE: write_tensors(step / checkpoint.BACKBONE, tensors)}
    manifest.write(step, example(config=config.plain(run), partitions={}, files=files))
    return folder
