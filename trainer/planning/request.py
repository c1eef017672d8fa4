"""What is to be planned: a run, how many people and images it has, and over how many ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sharded_fc.arguments import OptimizerName
from sharded_fc.capacity import HeadShape, PoolShape
from sharded_fc.sampling import Sampling
from trainer import config
from trainer.backbones import table
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.errors import RunError, RunFileError
from trainer.sampling import make_sampling

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
IMAGES_EACH = 20
"""Images of a person where nobody says: WebFace42M has 42,474,557 of 2,059,906."""
EPOCHS = 20.0
"""Passes over the images where no run file says."""
RATE, POOL_SHARE = 0.1, 0.01
"""Of the identities, in a sample and a pool, where nobody says (arXiv:2203.15565, 2105.10375)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run and its size. `epochs` are passes over `images`.

    `sampling` and `slots` are what its head is compared with: sampled, and a pool.
    """

    run: RunConfig
    identities: int
    images: int
    epochs: float
    sampling: Sampling
    slots: int

    def __post_init__(self) -> None:
        if self.identities < max(2, self.ranks):
            raise RunError(
                f"{self.identities} identities are too few for {self.ranks} ranks; use fewer ranks"
            )

    @property
    def ranks(self) -> int:
        """Processes of the run, one a device."""
        return self.run.cluster.workers

    @property
    def embedding_dim(self) -> int:
        """Numbers in an embedding."""
        chosen = self.run.backbone
        return chosen.embedding_dim or table.row(chosen.name).embedding_dim

    @property
    def own_images(self) -> int:
        """The most images that a rank has in a step."""
        batch = self.run.batch
        return -(-batch.micro_batches // self.ranks) * batch.micro_batch_size

    @property
    def steps_an_epoch(self) -> float:
        """Steps that see as many images as there are."""
        return self.images / self.run.batch.size


def head_shape(request: Request, *, on_cpu: bool, sampling: Sampling | None) -> HeadShape:
    """The head of a run, as numbers."""
    head = request.run.head
    operands, rows, state, optimizer = dtypes_of(request.run, on_cpu=on_cpu)
    return HeadShape(
        num_classes=request.identities,
        embedding_dim=request.embedding_dim,
        batch=request.run.batch.size,
        world_size=request.ranks,
        on_cpu=on_cpu,
        most_own=request.own_images,
        dtype=getattr(torch, rows),
        state=getattr(torch, state),
        operands=getattr(torch, operands),
        optimizer=optimizer,
        momentum=head.momentum,
        sub_centres=head.sub_centres,
        sampling=sampling,
        normalised=head.margin.name != "softmax",
        class_margins=head.class_margins is not None,
    )


def pool_shape(request: Request, *, on_cpu: bool) -> PoolShape:
    """A pool for the same run."""
    return PoolShape(
        slots=request.slots,
        embedding_dim=request.embedding_dim,
        batch=request.run.batch.size,
        world_size=request.ranks,
        on_cpu=on_cpu,
    )


def dtypes_of(run: RunConfig, *, on_cpu: bool) -> tuple[str, str, str, OptimizerName]:
    """(operands, rows, state, optimizer) of a run's head, by torch's names."""
    head = run.head
    if head.precision == "auto":
        operands = "float32" if on_cpu else "float16"
    else:
        operands = DTYPES[head.precision]
    rows = DTYPES[head.storage]
    if head.state_storage is not None:
        state = DTYPES[head.state_storage]
    else:
        state = "float32" if rows == "float16" else rows
    return operands, rows, state, head.optimizer


def split(words: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """(the run file if the first word is none of the changes, the changes)."""
    if words and "=" not in words[0]:
        return Path(words[0]), tuple(words[1:])
    return None, tuple(words)


def run_of(
    file: Path | None, changes: Sequence[str], *, ranks: int | None, on_cpu: bool
) -> RunConfig:
    """The run of a file, or one with the defaults of run files but for what suits the device.

    That is a micro-batch of 128 a rank, in bf16, and operands that are fastest there. `changes` are
    as in `facescale train`.

    Raises:
        RunError: the file or a change is wrong.
    """
    if file is not None:
        workers = () if ranks is None else (f"cluster.workers={ranks}",)
        return config.load(file, (*workers, *changes))
    ranks = ranks or 1
    tree = {
        "name": "plan",
        "data": {"path": "."},
        "steps": 1,
        "batch": {"micro_batches": ranks, "micro_batch_size": 128},
        "engine": {"precision": "bf16"},
        "head": {"precision": "bf16" if on_cpu else "auto"},
        "cluster": {"workers": ranks},
    }
    for change in changes:
        config.apply_change(tree, change)
    return config.from_tree(tree, source="the plan")


def make(
    file: Path | None,
    changes: Sequence[str],
    *,
    identities: int | None,
    images: int | None,
    ranks: int | None,
    epochs: float | None,
    rate: float | None,
    pool_share: float | None,
    on_cpu: bool,
) -> Request:
    """The request; what is not said comes from the run file and its dataset, or is usual.

    Raises:
        RunError, DataError: the file, the dataset or a number is missing or wrong.
    """
    run = run_of(file, changes, ranks=ranks, on_cpu=on_cpu)
    if file is None and identities is None:
        raise RunFileError("nothing to plan: name a run file, or --identities such as 2m")
    if identities is None:
        dataset = open_data(run.data)
        identities, images = dataset.num_identities, images or dataset.num_samples
    images = images or identities * IMAGES_EACH
    if epochs is None:
        epochs = EPOCHS if file is None else run.steps * run.batch.size / images
    sampling = make_sampling(run.head.sampling) or Sampling(rate=RATE)
    slots = max(2, run.cluster.workers, round((pool_share or POOL_SHARE) * identities))
    if pool_share is None and run.head.pool is not None:
        slots = run.head.pool.slots
    return Request(
        run=run,
        identities=identities,
        images=images,
        epochs=epochs,
        sampling=sampling if rate is None else replace(sampling, rate=rate),
        slots=slots,
    )
