"""What is exported: the network of a run's checkpoint, of a file of weights, or a fresh one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from data_pipeline.index import Dataset
from trainer import backbones, build, checkpoint, config, manifest
from trainer.backbones import table
from trainer.backbones.weights import load_weights
from trainer.data import open_data
from trainer.errors import RunError
from trainer.tensor_file import facts


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network with all its weights, and what is known of it."""

    network: nn.Module
    model: str
    """Its name in the table of backbones."""
    embedding_dim: int
    image_size: tuple[int, int]
    """Height and width."""
    trained: bool
    facts: dict[str, str]
    """Which run, step and file it comes from; no paths."""
    faces: Callable[[], Dataset] | None = None
    """Opens the faces that it was trained with."""


def from_run(path: Path) -> Source:
    """The newest whole checkpoint of a run folder, or the one that `path` is.

    The network is that of the checkpoint's own configuration.

    Raises:
        RunError: there is no checkpoint, or it is damaged.
    """
    if (path / "run.yaml").exists():
        found, refused = checkpoint.newest(path / "checkpoints")
        if found is None:
            raise RunError(f"{path} has no whole checkpoint{'; '.join(['', *refused])}")
        content = manifest.read(found)
    elif (path / manifest.NAME).exists():
        found, content = path, manifest.verify(path)
    else:
        raise RunError(f"{path} is neither a run folder nor a checkpoint of one")
    run = config.from_tree(content.config, source=str(found / manifest.NAME))
    network = build.network(run)
    load_weights(network, found / checkpoint.BACKBONE)
    row = table.row(run.backbone.name)
    known = {
        "run": run.name,
        "step": str(content.step),
        "checkpoint_sha256": content.files[checkpoint.BACKBONE].sha256,
    }
    if run.backbone.replace:
        known["replaced"] = "; ".join(
            f"{rule.what} of stages {', '.join(map(str, rule.stages))} by {rule.by.kind}"
            for rule in run.backbone.replace
        )
    return Source(
        network=network.eval(),
        model=run.backbone.name,
        embedding_dim=run.backbone.embedding_dim or row.embedding_dim,
        image_size=build.image_size(run),
        trained=True,
        facts=known,
        faces=lambda: open_data(run.data),
    )


def from_name(
    name: str,
    *,
    weights: Path | None = None,
    image_size: int | None = None,
    embedding_dim: int | None = None,
) -> Source:
    """A backbone of the table with the weights of a safetensors file, or first ones.

    Sizes that are None are those that the file says of itself, or else the table's.

    Raises:
        RunError: there is no such backbone, or the weights are of another one.
    """
    row = table.row(name)
    size = None if image_size is None else (image_size, image_size)
    known = {}
    if weights is not None:
        said = _said(weights)
        if said.get("backbone", name) != name:
            raise RunError(f"{weights} has the weights of {said['backbone']}, not of {name}")
        try:
            height, width = map(int, said["image_size"].split("x"))
            size, embedding_dim = (
                size or (height, width),
                embedding_dim or int(said["embedding_dim"]),
            )
        except (KeyError, ValueError):
            pass  # a checkpoint's file, which says nothing of itself
        known["checkpoint_sha256"] = facts(weights).sha256
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = backbones.build(name, embedding_dim=embedding_dim, image_size=size)
    if weights is not None:
        load_weights(network, weights)
    return Source(
        network=network.eval(),
        model=name,
        embedding_dim=embedding_dim or row.embedding_dim,
        image_size=size or row.image_size,
        trained=weights is not None,
        facts=known,
    )


def _said(path: Path) -> dict[str, str]:
    """What a file of weights says of itself."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise RunError(f"{path}: there is no such file of weights") from None
    except (OSError, SafetensorError) as error:
        words = " ".join(str(error).split())
        raise RunError(f"{path} is no whole safetensors file: {words}") from None
