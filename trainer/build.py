"""Turns a run file into the objects of one rank; nothing else knows both.

The libraries take plain arguments and never see the configuration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from data_pipeline.augment import Augmentation
from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.orders import Order
from data_pipeline.pairs import PairSet
from data_pipeline.plan import share
from data_pipeline.presets import PRESETS
from sharded_fc import ShardedHead
from trainer import backbones, schedule
from trainer.backbones import table
from trainer.backbones.oblong import expect_squares, size_in_square, take_middles
from trainer.backbones.replace import Rule
from trainer.backbones.weights import load_weights
from trainer.config import RunConfig
from trainer.config_backbone import ReplaceConfig
from trainer.data import make_order, open_data, sample_rules
from trainer.engine import Engine
from trainer.errors import RunError
from trainer.gallery import Gallery
from trainer.margins import class_margins, make_margin
from trainer.pool import Head, make_pool_head
from trainer.rows_outside import StepLabels, rows_outside
from trainer.sample_rules import SampleRules
from trainer.sampling import make_sampling
from trainer.topology import Topology

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a rank trains with."""

    order: Order
    dataset: Dataset
    micro_batches: range
    """This rank's share of them."""
    engine: Engine
    head: Head
    gallery: Gallery | None
    """Where the head is a pool."""
    rules: SampleRules
    """For the head."""
    labels: StepLabels | None
    """Where the head's rows are outside the device, and so are read a step ahead."""
    verification: dict[str, PairSet]


def build(config: RunConfig, topology: Topology) -> Parts:
    """Open the data and make network, engine and head, all seeded by the run.

    Raises:
        RunError: there are fewer micro-batches or identities than ranks, the order does not go
            with the batch, the backbone not with the images, or the head's numbers not together.
        DataError: a dataset is missing or damaged.
    """
    dataset = open_data(config.data)
    order = make_order(config, dataset)
    verification = {entry.name: PairSet.open(Path(entry.path)) for entry in config.verify}
    seen_in = (dataset, *(pairs.dataset for pairs in verification.values()))
    expect_squares(image_size(config), *seen_in)
    if dataset.num_identities < max(2, topology.world_size):
        raise RunError(
            f"{' and '.join(config.data.folders)} has {dataset.num_identities} identities, too"
            f" few for {topology.world_size} ranks; use fewer workers or more data"
        )
    engine = make_engine(config, topology)
    return Parts(
        order=order,
        dataset=dataset,
        micro_batches=share(config.batch.micro_batches, topology.rank, topology.world_size),
        engine=engine,
        head=_head(config, dataset, topology),
        gallery=_gallery(config, engine),
        rules=sample_rules(config.data, dataset, device=topology.device),
        labels=_labels(config, dataset),
        verification=verification,
    )


def make_engine(config: RunConfig, topology: Topology) -> Engine:
    """The backbone with first weights drawn by the run's seed, and its optimizer."""
    torch.manual_seed(config.seed)  # the same first weights on every rank
    first = network(config)
    if config.backbone.weights is not None:
        load_weights(first, Path(config.backbone.weights))
    return Engine(
        first,
        optimizer=config.optimizer.name,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
        zero_stage=config.engine.zero_stage,
        precision=config.engine.precision,
        recompute=config.engine.recompute,
        compiled=config.engine.compile,
        topology=topology,
    )


def network(config: RunConfig) -> nn.Module:
    """The run's backbone with weights drawn by torch's generator, for the faces of its data."""
    seen, side = image_size(config), config.data.image_size
    made = backbones.build(
        config.backbone.name,
        embedding_dim=config.backbone.embedding_dim,
        image_size=seen,
        rules=[_rule(replace) for replace in config.backbone.replace],
    )
    if seen != (side, side):
        take_middles(made, seen)
    return made


def image_size(config: RunConfig) -> tuple[int, int]:
    """Height and width of what the backbone sees of the data's square faces."""
    return size_in_square(table.row(config.backbone.name), config.data.image_size)


def _rule(chosen: ReplaceConfig) -> Rule:
    options = {f.name: getattr(chosen.by, f.name) for f in fields(chosen.by)}
    kind = options.pop("kind")
    return Rule(what=chosen.what, stages=chosen.stages, kind=kind, options=options)


def _labels(config: RunConfig, dataset: Dataset) -> StepLabels | None:
    if config.head.rows == "device":
        return None
    return StepLabels(make_order(config, dataset), dataset)


def _gallery(config: RunConfig, engine: Engine) -> Gallery | None:
    pool = config.head.pool
    if pool is None:
        return None
    return Gallery(
        network(config),
        engine,
        momentum=pool.gallery_momentum,
        batch_norm=pool.gallery_batchnorm,
        precision=config.engine.precision,
    )


def _head(config: RunConfig, dataset: Dataset, topology: Topology) -> Head:
    head = config.head
    if head.pool is not None:
        return make_pool_head(
            head,
            num_identities=dataset.num_identities,
            embedding_dim=embedding_dim(config),
            seed=config.seed,
            topology=topology,
        )
    margin = make_margin(head.margin)
    class_margin = None
    if head.class_margins is not None:
        class_margin = class_margins(head.class_margins, margin, dataset.images_per_identity())
    try:
        return ShardedHead(
            dataset.num_identities,
            embedding_dim(config),
            margin=margin,
            class_margin=class_margin,
            scale=head.scale,
            sub_centres=head.sub_centres,
            sampling=make_sampling(head.sampling),
            outside=rows_outside(config),
            group=topology.group,
            learning_rate=config.optimizer.learning_rate * head.learning_rate_ratio,
            learning_rate_ratios=head.learning_rate_ratios,
            optimizer=head.optimizer,
            momentum=head.momentum,
            betas=head.betas,
            eps=head.eps,
            weight_decay=head.weight_decay,
            clip_row_norm=head.clip_row_norm,
            conflict_cosine=head.conflict_cosine,
            ignore_conflicts=head.ignore_conflicts,
            compute_dtype=None if head.precision == "auto" else DTYPES[head.precision],
            dtype=DTYPES[head.storage],
            state_dtype=None if head.state_storage is None else DTYPES[head.state_storage],
            seed=config.seed,
            device=topology.device,
        )
    except ValueError as error:
        raise RunError(f"head: {error}") from error


def embedding_dim(config: RunConfig) -> int:
    """Numbers in an embedding: the run file's, or the network's own."""
    return config.backbone.embedding_dim or table.row(config.backbone.name).embedding_dim


def augmentation(config: RunConfig) -> Augmentation:
    """What is done to a training face: the preset with the run file's changes.

    Raises:
        RunError: the changes do not go together.
    """
    augment = config.data.augment
    changed = {
        field.name: value
        for field in fields(Augmentation)
        if (value := getattr(augment, field.name, None)) is not None
    }
    try:
        return replace(PRESETS[augment.preset], **changed, seed=config.seed)
    except ValueError as error:
        raise RunError(f"data.augment: {error}") from error


def loader(
    config: RunConfig,
    parts: Parts,
    topology: Topology,
    *,
    start_step: int,
    quarantine: Mapping[int, str],
) -> Loader:
    """This rank's batches from `start_step` on, decoded on its device."""
    return Loader(
        parts.dataset,
        parts.order,
        parts.micro_batches,
        image_size=config.data.image_size,
        augmentation=augmentation(config),
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
