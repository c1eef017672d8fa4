"""The runs whose time `bench_plan` predicts: heads by themselves, and training with a backbone.

None is of a shape that calibration times. `scale` divides the classes, for a quick look.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_pipeline.synthetic import synthesize
from sharded_fc.capacity import (
    HeadShape,
    PoolShape,
    head_bytes,
    head_traffic,
    head_work,
    pool_bytes,
    pool_traffic,
    pool_work,
)
from sharded_fc.sampling import Sampling
from tests.benchmarks.memory import resident_kb
from trainer import config, run_folder
from trainer.config import RunConfig
from trainer.launch import run_local
from trainer.metrics import read_lines
from trainer.planning import request
from trainer.planning.clock import Clock
from trainer.planning.constants import Machine
from trainer.planning.plan import make_plan
from trainer.planning.probes import head_step, pool_step
from trainer.planning.ranks import on_ranks
from trainer.planning.seconds import head_seconds, pool_seconds
from trainer.planning.yardstick import Yardstick, measure_yardstick
from trainer.topology import Topology

LEAST_S, LEAST_CALLS = 1.2, 4  # of a visit
RUN_STEPS = 24


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Seconds of a step, and the bytes that a head adds to a rank; None for whole runs.

    `moved_share` of the seconds go with the speed of memory, the rest with that of arithmetic;
    `yardstick` is the calibration's reading for these ranks.
    """

    seconds: float
    head_bytes: int | None
    moved_share: float
    yardstick: Yardstick


class Visit(NamedTuple):
    """What was measured in one go, between two readings of the yardstick."""

    seconds: float
    head_bytes: int | None
    before: Yardstick
    after: Yardstick

    def drift(self, then: Prediction) -> float:
        """How much longer the prediction would be at this visit's speed of the machine.

        By the faster reading, as a calibration's is the fastest of some.
        """
        readings = (self.before, self.after)
        share = then.moved_share
        return min(then.yardstick.drift(reading, moved_share=share) for reading in readings)


@dataclass(frozen=True, kw_only=True)
class PlannedHead:
    """Steps of a head or a pool alone, on `shape.world_size` ranks."""

    shape: HeadShape | PoolShape
    threads: int

    @property
    def name(self) -> str:
        """What tables call it."""
        shape = self.shape
        where = f"{shape.world_size} x {self.threads} threads"
        if isinstance(shape, PoolShape):
            return f"pool {shape.slots:,} x {shape.embedding_dim}, batch {shape.batch}; {where}"
        words = [
            f"{shape.num_classes:,} x {shape.embedding_dim}, batch {shape.batch}",
            f"{_short(shape.compute)} x {_short(shape.dtype)} x {_short(shape.state_dtype)}",
        ]
        if shape.optimizer != "sgd":
            words.append(shape.optimizer)
        if shape.sampling is not None:
            words.append(f"sampled {shape.sampling.rate:g}")
        return ", ".join(words) + f"; {where}"

    def predicted(self, machine: Machine) -> Prediction:
        """What is to come."""
        constants, shape = machine.setup(self.shape.world_size, self.threads), self.shape
        if isinstance(shape, PoolShape):
            taken = pool_bytes(shape)
            seconds = pool_seconds(shape, pool_work(shape), pool_traffic(shape), constants)
        else:
            taken = head_bytes(shape)
            seconds = head_seconds(shape, head_work(shape), head_traffic(shape), constants)
        assert constants.yardstick is not None
        return Prediction(
            seconds=seconds.total,
            head_bytes=taken.total,
            moved_share=seconds.moved / seconds.total,
            yardstick=constants.yardstick,
        )

    def measured(self) -> Visit:
        """The median of steps, of the slowest rank; the highest memory of the largest."""
        return on_ranks(_steps, self.shape, ranks=self.shape.world_size, threads=self.threads)


def _steps(topology: Topology, shape: HeadShape | PoolShape) -> Visit:
    clock = Clock(topology.group, topology.device)
    reading = measure_yardstick(clock)

    def made(shape: HeadShape | PoolShape) -> Callable[[], object]:
        return pool_step(shape, clock) if isinstance(shape, PoolShape) else head_step(shape, clock)

    # Threads, libraries' own memory.
    name = "slots" if isinstance(shape, PoolShape) else "num_classes"
    made(replace(shape, **{name: 64 * shape.world_size}))()
    # Without this the mark is the highest since the program began: that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_kb("VmRSS")
    seconds = clock.seconds(made(shape), least_s=LEAST_S, least_calls=LEAST_CALLS, warm=2)
    added = clock.slowest(float(resident_kb("VmHWM") - before))
    return Visit(seconds, round(added * 1024), reading, measure_yardstick(clock))


def _reading(topology: Topology) -> Yardstick:
    return measure_yardstick(Clock(topology.group, topology.device))


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A whole training run on made-up faces: loader, backbone, head and optimizers."""

    people: int
    images_each: int
    changes: tuple[tuple[str, Any], ...]

    @property
    def run(self) -> RunConfig:
        """The run, without its data."""
        tree: dict[str, Any] = {
            "name": "planned",
            "steps": RUN_STEPS,
            "data": {"path": "."},
            "every": {"log": 10, "save": 1000},
        }
        for dotted, value in self.changes:
            place, (*parents, leaf) = tree, dotted.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = value
        return config.from_tree(tree, source="bench_plan")

    @property
    def name(self) -> str:
        """What tables call it."""
        run = self.run
        return (
            f"{run.backbone.name} at {run.data.image_size} px, {run.engine.precision},"
            f" {run.batch.micro_batches} x {run.batch.micro_batch_size} images,"
            f" {self.people:,} people; {run.cluster.workers} x {run.engine.threads} threads"
        )

    def predicted(self, machine: Machine) -> Prediction:
        """Loader and all."""
        wanted = request.Request(
            run=self.run,
            identities=self.people,
            images=self.people * self.images_each,
            epochs=1.0,
            sampling=Sampling(rate=0.1),
            slots=self.people // 2,
        )
        plan = make_plan(wanted, machine)
        full = plan.candidates[0]
        assert plan.constants.yardstick is not None
        return Prediction(
            seconds=full.step_s,
            head_bytes=None,
            moved_share=(full.head_seconds.moved + full.gradient_exchange_s) / full.step_s,
            yardstick=plan.constants.yardstick,
        )

    def measured(self) -> Visit:
        """The median of its steps, the first quarter left out."""
        workers, threads = self.run.cluster.workers, self.run.engine.threads
        before = on_ranks(_reading, ranks=workers, threads=threads)
        seconds = self._seconds()
        return Visit(seconds, None, before, on_ranks(_reading, ranks=workers, threads=threads))

    def _seconds(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            synthesize(
                Path(folder) / "faces",
                identities=self.people,
                images=self.images_each,
                size=self.run.data.image_size,
                processes=2,
            )
            data = replace(self.run.data, path=str(Path(folder) / "faces"))
            run = replace(self.run, data=data, runs=str(Path(folder) / "runs"))
            kept = run_folder.prepare(run)
            run_local(run, kept)
            lines = read_lines(kept / "metrics" / "history.jsonl")
            seconds = [line["seconds"]["total"] for line in lines]
            return statistics.median(seconds[len(seconds) // 4 :])

    def calibrating(self) -> RunConfig:
        """A run with the same backbone, but of other batches, to calibrate with."""
        run = self.run
        size = run.batch.micro_batch_size + 8
        batch = replace(run.batch, micro_batches=run.cluster.workers, micro_batch_size=size)
        return replace(run, batch=batch)


Planned = PlannedHead | PlannedRun


def all_planned(*, scale: int) -> Sequence[Planned]:
    """Every configuration; the first run's backbone is measured on one rank, the other's on two."""
    low: dict[str, Any] = {"operands": torch.bfloat16}
    two_byte: dict[str, Any] = {**low, "dtype": torch.bfloat16, "state": torch.bfloat16}

    def head(classes: int, dim: int, batch: int, *, ranks: int = 1, **rest: Any) -> PlannedHead:
        shape = HeadShape(
            num_classes=classes // scale,
            embedding_dim=dim,
            batch=batch,
            world_size=ranks,
            on_cpu=True,
            **rest,
        )
        return PlannedHead(shape=shape, threads=2 // ranks)

    def pool(slots: int, dim: int, batch: int, *, ranks: int) -> PlannedHead:
        shape = PoolShape(
            slots=slots // scale, embedding_dim=dim, batch=batch, world_size=ranks, on_cpu=True
        )
        return PlannedHead(shape=shape, threads=2 // ranks)

    return (
        head(100_000, 512, 256),
        head(100_000, 512, 256, **low),
        head(400_000, 512, 48, **two_byte),
        head(150_000, 128, 384),
        head(300_000, 256, 96, **two_byte),
        head(500_000, 192, 64),
        head(120_000, 320, 200, optimizer="adamw", **low),
        head(600_000, 256, 96, sampling=Sampling(rate=0.1)),
        head(1_000_000, 192, 64, sampling=Sampling(rate=0.02), **two_byte),
        pool(60_000, 192, 192, ranks=1),
        head(150_000, 256, 160, ranks=2),
        head(200_000, 512, 256, ranks=2, **low),
        head(500_000, 256, 96, ranks=2, sampling=Sampling(rate=0.05)),
        PlannedRun(people=300, images_each=2, changes=_changes("facenet_small", 64, 3, 24, 1)),
        PlannedRun(people=400, images_each=2, changes=_changes("mobilefacenet", 64, 4, 12, 2)),
    )


def _changes(
    backbone: str, side: int, micro_batches: int, size: int, ranks: int
) -> tuple[tuple[str, Any], ...]:
    return (
        ("backbone.name", backbone),
        ("data.image_size", side),
        ("batch.micro_batches", micro_batches),
        ("batch.micro_batch_size", size),
        ("engine.precision", "bf16"),
        ("engine.threads", 2 // ranks),
        ("cluster.workers", ranks),
    )


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
