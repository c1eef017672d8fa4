"""A trained run, scored on any verification set from its newest checkpoint.

Runs in one process without an engine or a process group.
"""

from pathlib import Path
from typing import Any

import torch

from data_pipeline.pairs import PairSet
from trainer import build, checkpoint, config, manifest
from trainer.backbones.oblong import expect_squares
from trainer.backbones.weights import load_weights
from trainer.errors import RunError
from trainer.evaluate.embed import verify
from trainer.forwards import inference
from trainer.topology import choose_device


def verify_run(folder: Path, pairs: Path, *, threads: int) -> dict[str, Any]:
    """The fields of an `evaluations.jsonl` line for this run on this set.

    Raises:
        RunError: the folder is no run, or has no undamaged checkpoint; the set's images are not the
            network's.
        DataError: the set is missing or damaged.
    """
    torch.set_num_threads(threads)
    run = config.load(folder / "run.yaml")
    path, refused = checkpoint.newest(folder / "checkpoints")
    if path is None:
        raise RunError(f"{folder} has no checkpoint to verify{'; '.join(['', *refused])}")
    faces = PairSet.open(pairs)
    expect_squares(build.image_size(run), faces.dataset)
    device = choose_device(0)
    network = build.network(run)
    load_weights(network, path / "backbone.safetensors")
    result = verify(
        inference(network.to(device)),
        faces,
        rank=0,
        world_size=1,
        group=None,
        device=str(device),
        image_size=run.data.image_size,
        threads=threads,
    )
    return result.record(step=manifest.read(path).step, name=pairs.name)
