"""A toy's engine and head, to be trained, saved and loaded by tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharded_fc.margins import CurricularFace
from tests.trainer import toy
from tests.trainer.test_engine import OPTIMIZERS, Stage, make
from tests.trainer.test_step import M, share, snapshot
from trainer import checkpoint, manifest
from trainer.step import train_step

CONFIG = {"name": "a-run", "optimizer": {"learning_rate": 0.1}}
DATA = {"bad_samples": {"7": "truncated"}}


PLAIN_HEAD: Mapping[str, Any] = {}
RICH_HEAD: Mapping[str, Any] = {
    "margin": CurricularFace(0.2),
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "sub_centres": 2,
    "dtype": torch.bfloat16,
}
"""A head with a scalar of its margin, other state than momentum, two rows a class, two bytes."""


class Run:
    """Engine and head of this rank, and how to train, save and load them."""

    def __init__(
        self,
        stage: Stage,
        optimizer: str = "sgd",
        kind: type[nn.Module] = toy.Normalised,
        head: Mapping[str, Any] = PLAIN_HEAD,
    ) -> None:
        rates = {"sgd": 0.1, "adamw": 0.01}
        self.engine = make(stage, kind, clip_norm=0.5, **OPTIMIZERS[optimizer])
        self.head = toy.head(**head)
        self.topology = self.engine.topology
        self.rate = rates[optimizer]

    def train(self, steps: range) -> list[float]:
        mine = share(self.topology.rank, self.topology.world_size)
        return [
            train_step(
                self.engine,
                self.head,
                toy.batches(step, mine),
                micro_batches=mine,
                total_micro_batches=M,
                learning_rate=self.rate / (step + 1),
            ).statistics.loss.item()
            for step in steps
        ]

    def save(self, folder: Path, step: int, keep: int = 3) -> Path:
        return checkpoint.save(
            folder,
            step=step,
            samples_seen=step * 16,
            config=CONFIG,
            data=DATA,
            engine=self.engine,
            head=self.head,
            topology=self.topology,
            keep=keep,
        )

    def load(self, path: Path) -> manifest.Manifest:
        return checkpoint.load(path, engine=self.engine, head=self.head, topology=self.topology)

    def state(self) -> dict[str, Any]:
        return snapshot(self.engine, self.head)


def save_steps(folder: Path, steps: list[int], keep: int) -> None:
    """Train a step before each of these numbers, and save."""
    run = Run(0)
    for step in steps:
        run.train(range(step, step + 1))
        run.save(folder, step, keep)
