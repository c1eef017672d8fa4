"""Turns a run file into the objects of one rank; nothing else knows both.

The libraries take plain arguments and never see the configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from data_pipeline.augment import Augmentation
from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.pairs import PairSet
from data_pipeline.plan import Plan, share
from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace, CosFace
from trainer import backbones, schedule
from trainer.backbones import table
from trainer.config import CosFaceConfig, RunConfig
from trainer.engine import Engine
from trainer.errors import RunError
from trainer.topology import Topology

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a rank trains with."""

    plan: Plan
    dataset: Dataset
    micro_batches: range
    """This rank's share of them."""
    engine: Engine
    head: ShardedHead
    verification: dict[str, PairSet]


def build(config: RunConfig, topology: Topology) -> Parts:
    """Open the data and make network, engine and head, all seeded by the run.

    Raises:
        RunError: there are fewer micro-batches or identities than ranks.
        DataError: a dataset is missing or damaged.
    """
    dataset = Dataset.open(Path(config.data.path))
    verification = {entry.name: PairSet.open(Path(entry.path)) for entry in config.verify}
    if dataset.num_identities < max(2, topology.world_size):
        raise RunError(
            f"{config.data.path} has {dataset.num_identities} identities, too few for"
            f" {topology.world_size} ranks; use fewer workers or more data"
        )
    torch.manual_seed(config.seed)  # the same first weights on every rank
    network = backbones.build(
        config.backbone.name,
        embedding_dim=config.backbone.embedding_dim,
        image_size=config.data.image_size,
    )
    engine = Engine(
        network,
        optimizer=config.optimizer.name,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
        zero_stage=config.engine.zero_stage,
        precision=config.engine.precision,
        recompute=config.engine.recompute,
        topology=topology,
    )
    head = ShardedHead(
        dataset.num_identities,
        config.backbone.embedding_dim or table.row(config.backbone.name).embedding_dim,
        margin=margin(config),
        scale=config.head.scale,
        group=topology.group,
        learning_rate=config.optimizer.learning_rate * config.head.learning_rate_ratio,
        momentum=config.head.momentum,
        weight_decay=config.head.weight_decay,
        compute_dtype=PRECISION[config.head.precision],
        seed=config.seed,
        device=topology.device,
    )
    return Parts(
        plan=Plan(
            tuple(shard.samples for shard in dataset.shards),
            micro_batches=config.batch.micro_batches,
            micro_batch_size=config.batch.micro_batch_size,
            seed=config.seed,
            shuffle_window=config.data.shuffle_window,
        ),
        dataset=dataset,
        micro_batches=share(config.batch.micro_batches, topology.rank, topology.world_size),
        engine=engine,
        head=head,
        verification=verification,
    )


def margin(config: RunConfig) -> CosFace | ArcFace:
    """The head's margin."""
    chosen = config.head.margin
    if isinstance(chosen, CosFaceConfig):
        return CosFace(chosen.margin)
    return ArcFace(chosen.margin_rad, gradient=chosen.gradient)


def loader(
    config: RunConfig,
    parts: Parts,
    topology: Topology,
    *,
    start_step: int,
    quarantine: Mapping[int, str],
) -> Loader:
    """This rank's batches from `start_step` on, decoded on its device."""
    augment = config.data.augment
    return Loader(
        parts.dataset,
        parts.plan,
        parts.micro_batches,
        image_size=config.data.image_size,
        augmentation=Augmentation(
            flip=augment.flip,
            brightness=augment.brightness,
            contrast=augment.contrast,
            saturation=augment.saturation,
            crop=augment.crop,
            seed=config.seed,
        ),
        device=str(topology.device),
        threads=config.data.threads,
        start_step=start_step,
        quarantine=quarantine,
        bad_sample_budget=config.data.bad_sample_budget,
    )


def learning_rates(config: RunConfig) -> Callable[[int], float]:
    """The schedule: step number (from 0) to the backbone's learning rate."""
    return partial(
        schedule.learning_rate,
        peak=config.optimizer.learning_rate,
        steps=config.steps,
        warmup_steps=config.schedule.warmup_steps,
        name=config.schedule.name,
        power=config.schedule.power,
        final_ratio=config.schedule.final_ratio,
    )
