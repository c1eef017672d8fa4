"""Opens the datasets that a run file names, and puts their samples in its order."""

from pathlib import Path

import torch

from data_pipeline.index import Dataset
from data_pipeline.long_tail import drawing_share, loss_weight
from data_pipeline.mixture import Mixture, mix
from data_pipeline.orders import Order
from data_pipeline.orders.by_identity import IdentityOrder
from data_pipeline.orders.identities import Identities
from data_pipeline.orders.mixed import MixedOrder
from data_pipeline.orders.pairs import PairOrder
from data_pipeline.plan import Plan
from data_pipeline.subset import choose, read_names, subset
from trainer.config import RunConfig
from trainer.config_data import (
    DataConfig,
    IdentitiesConfig,
    LongTailConfig,
    PairsConfig,
    SubsetConfig,
    keeps_plan,
)
from trainer.errors import RunError
from trainer.sample_rules import SampleRules


def open_data(data: DataConfig) -> Dataset:
    """The training set: one dataset or several, whole or in part.

    Raises:
        DataError: one is missing or damaged, or nothing of it is left.
    """
    dataset = _part(data.path, data.subset)
    if data.mix is None:
        return dataset
    others = [_part(other.path, other.subset) for other in data.mix.others]
    return mix([dataset, *others], labels=data.mix.labels)


def make_order(config: RunConfig, dataset: Dataset) -> Order:
    """Which sample is read when, from what `open_data` opened.

    Raises:
        RunError: the size of a micro-batch or a weight does not go with the order.
    """
    try:
        return _order(config, dataset)
    except ValueError as error:
        raise RunError(f"data.order: {error}") from error


def sample_rules(data: DataConfig, dataset: Dataset, *, device: torch.device) -> SampleRules:
    """What the head is told of the samples of this training set."""
    weight = edges = None
    if isinstance(data.order, LongTailConfig) and data.order.by == "loss":
        weights = loss_weight(dataset.images_per_identity(), beta=data.order.beta)
        weight = torch.from_numpy(weights).to(device, torch.float32)
    if isinstance(dataset, Mixture) and dataset.label_edges is not None:
        edges = torch.tensor(dataset.label_edges, device=device)
    return SampleRules(weight=weight, edges=edges)


def _part(path: str, chosen: SubsetConfig | None) -> Dataset:
    dataset = Dataset.open(Path(path))
    if chosen is None:
        return dataset
    labels = choose(
        dataset,
        only=None if chosen.only is None else read_names(Path(chosen.only)),
        without=() if chosen.without is None else read_names(Path(chosen.without)),
        min_images=chosen.min_images,
        max_images=chosen.max_images,
        labels=None if chosen.labels is None else range(*chosen.labels),
    )
    return subset(dataset, labels)


def _order(config: RunConfig, dataset: Dataset) -> Order:
    data, sizes = config.data, dataset.shard_sizes
    step = {
        "micro_batches": config.batch.micro_batches,
        "micro_batch_size": config.batch.micro_batch_size,
        "seed": config.seed,
    }
    if keeps_plan(data.order):
        if isinstance(dataset, Mixture) and data.mix is not None and data.mix.weights is not None:
            parts = [part.shard_sizes for part in dataset.parts]
            return MixedOrder(parts, data.mix.weights, shuffle_window=data.shuffle_window, **step)
        return Plan(sizes, shuffle_window=data.shuffle_window, **step)
    identities = Identities.of(dataset)
    if isinstance(data.order, PairsConfig):
        window = data.shuffle_window
        return PairOrder(identities, shard_sizes=sizes, shuffle_window=window, **step)
    each, share = 1, None
    if isinstance(data.order, IdentitiesConfig):
        each = data.order.images_each
    elif isinstance(data.order, LongTailConfig):
        share = drawing_share(identities.images, beta=data.order.beta)
    return IdentityOrder(identities, shard_sizes=sizes, images_each=each, share=share, **step)
