"""Measures the rest of a run on these ranks: its backbone, its loader, rows on the host."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data_pipeline.batch import FaceBatch
from data_pipeline.loader import Loader
from data_pipeline.plan import share
from data_pipeline.synthetic import synthesize
from sharded_fc import ShardedHead
from sharded_fc.margins import CosFace
from sharded_fc.tables import Layout, open_table
from trainer import build
from trainer.config import RunConfig
from trainer.config_data import ShuffledConfig
from trainer.data import make_order, open_data
from trainer.planning.backbone import network_name
from trainer.planning.clock import Clock
from trainer.planning.constants import BackboneCost
from trainer.planning.rounds import Numbers
from trainer.step import StepOutcome, train_step
from trainer.topology import Topology

TABLE_ROWS, TABLE_DIM, TAKEN_BLOCKS, BLOCK = 65_536, 256, 64, 128
CLASSES = 64  # a rank
WARM_STEPS, STEPS = 2, 4
DISK_BYTES = 32 << 20
FACES, PEOPLE = 96, 24
LOADED_S = 0.3


class BackboneProbe:
    """A run's network, stepped for real: one micro-batch a rank, and next to no head.

    Of the run's micro-batch and of half of it, which tells what a micro-batch costs at least.
    """

    def __init__(self, run: RunConfig, topology: Topology) -> None:
        self._run = run
        self._topology = topology
        self._engine = build.make_engine(run, topology)
        self._dim = build.embedding_dim(run)
        self._head = ShardedHead(
            CLASSES * topology.world_size,
            self._dim,
            margin=CosFace(0.4),
            scale=64.0,
            learning_rate=0.1,
            group=topology.group,
            device=topology.device,
        )
        size = run.batch.micro_batch_size
        self._sizes = tuple(dict.fromkeys((size, max(2, size // 2))))

    def time(self, clock: Clock) -> dict[Hashable, float]:
        """Seconds of each phase of a step of each size; a collective of all ranks."""
        found: dict[Hashable, float] = {}
        for size in self._sizes:
            for _ in range(WARM_STEPS):  # kernels are chosen and memory is taken
                self._step(size)
            taken = [self._step(size) for _ in range(STEPS)]
            for phase in taken[0]:
                seconds = statistics.median(each[phase] for each in taken)
                found["backbone", phase, size] = clock.slowest(seconds)
        return found

    def cost(self, numbers: Numbers) -> BackboneCost:
        """Prices from what `time` found."""
        run, size = self._run, self._sizes[0]
        forward, forward_call = self._split(numbers, "forward")
        backward, backward_call = self._split(numbers, "backward")
        return BackboneCost(
            name=network_name(run),
            image_size=run.data.image_size,
            embedding_dim=self._dim,
            precision=run.engine.precision,
            recompute=run.engine.recompute,
            forward_s=forward,
            backward_s=backward,
            optimizer_s=numbers["backbone", "optimizer", size],
            forward_call_s=forward_call,
            backward_call_s=backward_call,
        )

    def _split(self, numbers: Numbers, phase: str) -> tuple[float, float]:
        """(of an image, of a micro-batch besides) in a phase."""
        size, half = self._sizes[0], self._sizes[-1]
        whole = numbers["backbone", phase, size]
        if size == half:
            return whole / size, 0.0
        of_image = (whole - numbers["backbone", phase, half]) / (size - half)
        of_call = whole - size * of_image
        if of_image <= 0 or of_call < 0:  # disturbed
            return whole / size, 0.0
        return of_image, of_call

    def _step(self, size: int) -> dict[str, float]:
        topology, side = self._topology, self._run.data.image_size
        generator = torch.Generator().manual_seed(topology.rank)
        batch = FaceBatch(
            torch.randn(size, 3, side, side, generator=generator).to(topology.device),
            torch.randint(CLASSES * topology.world_size, (size,), generator=generator),
            torch.arange(size),
        )
        outcome: StepOutcome = train_step(
            self._engine,
            self._head,
            [batch],
            micro_batches=share(topology.world_size, topology.rank, topology.world_size),
            total_micro_batches=topology.world_size,
            learning_rate=1e-3,
        )
        return outcome.seconds()


@contextmanager
def loader_probe(run: RunConfig, clock: Clock) -> Iterator[Callable[[], tuple[float, float]]]:
    """Reads, decodes and augments made-up faces, each rank for itself.

    What is yielded says (seconds of an image, seconds of a core for it), of the slowest rank.
    """
    with tempfile.TemporaryDirectory(prefix="facescale-") as folder:
        synthesize(
            Path(folder) / "faces",
            identities=PEOPLE,
            images=FACES // PEOPLE,
            size=run.data.image_size,
        )
        data = replace(
            run.data,
            path=str(Path(folder) / "faces"),
            subset=None,
            mix=None,
            order=ShuffledConfig(),  # others need more people
        )
        small = replace(run, data=data)
        dataset = open_data(small.data)
        size = min(run.batch.micro_batch_size, FACES // 4)
        small = replace(
            small,
            batch=replace(run.batch, micro_batches=1, micro_batch_size=size),
            cluster=replace(run.cluster, workers=1),  # every rank reads by itself
        )
        order = make_order(small, dataset)
        loader = Loader(
            dataset,
            order,
            range(1),
            image_size=small.data.image_size,
            augmentation=build.augmentation(small),
            device=str(clock.device),
            threads=small.data.threads,
            quarantine={},
            bad_sample_budget=0,
        )

        def read() -> tuple[float, float]:
            for _ in range(4):  # what was ready before
                next(loader)
            began, busy, images = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - began < LOADED_S:
                images += sum(len(batch.label) for batch in next(loader).batches)
            busy, taken = time.process_time() - busy, time.perf_counter() - began
            return clock.slowest(taken / images), clock.slowest(busy / images)

        try:
            yield read
        finally:
            loader.close()


def measure_rows_outside(clock: Clock, kept_in: Literal["host", "mapped"]) -> float:
    """Seconds a byte of rows fetched from host memory or a file and put back, blocks at random.

    The file's pages stay in memory, and what its blocks held is in the journal already.
    """
    layout = Layout(
        start=0,
        stop=TABLE_ROWS,
        embedding_dim=TABLE_DIM,
        state_widths={"momentum": TABLE_DIM},
        seed=0,
        dtype=torch.bfloat16,
        state_dtype=torch.bfloat16,
    )
    blocks = np.sort(
        np.random.default_rng(0).choice(TABLE_ROWS // BLOCK, TAKEN_BLOCKS, replace=False)
    )
    rows = torch.from_numpy((blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1))
    with tempfile.TemporaryDirectory(prefix="facescale-") as folder:
        table = open_table(
            Path(folder), layout, kept_in=kept_in, block_rows=BLOCK, step=0, device=clock.device
        )

        def step() -> None:
            table.scatter(table.gather(rows))
            table.forget(before=0)  # waits for what was asked for before it

        seconds = clock.seconds(step, least_s=0.2, warm=2)
        table.close()
    return seconds / (2 * len(rows) * layout.record_bytes)


def measure_disk(clock: Clock) -> float:
    """Seconds a byte that is written to the folder of temporary files and synced."""
    data = bytes(DISK_BYTES)
    with tempfile.TemporaryFile(prefix="facescale-") as file:

        def write() -> None:
            os.pwrite(file.fileno(), data, 0)
            os.fdatasync(file.fileno())

        return clock.seconds(write, least_s=0.0) / DISK_BYTES
