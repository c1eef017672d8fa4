"""The training loop of one rank, from the newest checkpoint to the last step.

Reads as the data flows: batches → backbone → head → both optimizers; every so many steps numbers
are published, faces verified, state saved. It knows nothing of clusters; whoever launches ranks
calls `run_worker` on each.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from data_pipeline.loader import LoadedStep
from sharded_fc import ShardedHead
from trainer import build, checkpoint, run_folder
from trainer.bad_samples import BadSamples
from trainer.centres import publish_centres, write_conflicts
from trainer.config import RunConfig, plain
from trainer.errors import RunError
from trainer.evaluate.embed import verify
from trainer.history import History
from trainer.margins import margin_state
from trainer.metrics import Metrics, truncate_history
from trainer.rows_outside import rows_errors_in_one_line
from trainer.sampling import describe_sampling
from trainer.step import train_step
from trainer.stop_request import StopRequest
from trainer.topology import Topology

log = logging.getLogger("facescale")


def run_worker(
    config: RunConfig, *, topology: Topology, folder: Path, attempt: int
) -> Literal["finished", "stopped"]:
    """Train this rank's share until the last step or until somebody asks to stop.

    Continues from the newest undamaged checkpoint of the run folder. A file `stop` in the run
    folder, or SIGTERM to any rank, makes all ranks save and return "stopped" at the same step.
    Every rank calls it; collectives run inside.

    Raises:
        RunError, DataError: what the user has to change, in one line.
    """
    torch.set_num_threads(config.engine.threads)
    with _log_to(folder / "logs" / f"rank-{topology.rank:05d}.log"):
        try:
            with rows_errors_in_one_line():
                return _Run(config, topology=topology, folder=folder, attempt=attempt).train()
        except Exception:
            log.exception("rank %d failed", topology.rank)
            raise


class _Run:
    """One rank's run: what is built once, and the step it has reached."""

    def __init__(
        self, config: RunConfig, *, topology: Topology, folder: Path, attempt: int
    ) -> None:
        self.config, self.topology, self.folder = config, topology, folder
        self.parts = build.build(config, topology)
        self.learning_rate = build.learning_rates(config)
        self.bad_samples = BadSamples(topology=topology, budget=config.data.bad_sample_budget)
        self.step = self._resume()
        self.saved_step = self.step
        self.history = History(
            topology=topology,
            micro_batches=config.batch.micro_batches,
            batch_size=config.batch.size,
            samples_an_epoch=self.parts.dataset.num_samples,
            attempt=attempt,
        )
        self.metrics = Metrics(
            folder,
            run=config.name,
            rank=topology.rank,
            world_size=topology.world_size,
            attempt=attempt,
            planned_steps=config.steps,
        )

    def train(self) -> Literal["finished", "stopped"]:
        every, stopping = self.config.every, False
        loader = build.loader(
            self.config,
            self.parts,
            self.topology,
            start_step=self.step,
            quarantine=self.bad_samples.known,
        )
        with StopRequest(self.folder) as stop, self._progress() as bar:
            batches = iter(loader)
            try:
                self._tell_sampling(bar)
                while self.step < self.config.steps and not stopping:
                    self._one_step(batches)
                    bar.update()
                    last = self.step == self.config.steps
                    save = last or self.step % every.save == 0
                    if save or self.step % every.log == 0:
                        stopping = self._publish(stop=stop.requested, bar=bar)
                    if last or (every.evaluate and self.step % every.evaluate == 0):
                        self._evaluate(bar)
                        self._look_at_centres(bar)
                    if save or stopping:
                        self._save(bar, must=last or stopping)
            finally:
                loader.close()
                if isinstance(self.parts.head, ShardedHead):
                    self.parts.head.close()
        return "stopped" if stopping and self.step < self.config.steps else "finished"

    def _tell_sampling(self, bar: "tqdm[NoReturn]") -> None:
        line = describe_sampling(self.config, num_identities=self.parts.dataset.num_identities)
        if line is not None:
            self._tell(line, bar)

    def _one_step(self, batches: Iterator[LoadedStep]) -> None:
        began = time.perf_counter()
        loaded = next(batches)
        data_wait_s = time.perf_counter() - began
        rate = self.learning_rate(self.step)
        if isinstance(self.parts.head, ShardedHead):
            self.parts.head.learning_rate = rate * self.config.head.learning_rate_ratio
        outcome = train_step(
            self.parts.engine,
            self.parts.head,
            loaded.batches,
            micro_batches=self.parts.micro_batches,
            total_micro_batches=self.config.batch.micro_batches,
            learning_rate=rate,
            rules=self.parts.rules,
            gallery=self.parts.gallery,
            next_label=self._next_label(),
            draws=(self.config.seed, self.step),
        )
        self.step += 1
        self.bad_samples.add(loaded.quarantined)
        self.history.add(
            outcome,
            step=self.step,
            learning_rate=rate,
            digests=loaded.digests,
            data_wait_s=data_wait_s,
            total_s=time.perf_counter() - began,
        )

    def _next_label(self) -> Tensor | None:
        if self.parts.labels is None or self.step + 1 == self.config.steps:
            return None
        return self.parts.labels.of_step(self.step + 1)

    def _publish(self, *, stop: bool, bar: "tqdm[NoReturn]") -> bool:
        """Write the interval's numbers; whether some rank was asked to stop."""
        interval = self.history.flush(stop=stop, bad_samples=self.bad_samples.num_new)
        if self.bad_samples.num_new:
            self.metrics.bad_samples(self.bad_samples.new_by_reason())
        if interval.new_bad_samples:
            self.bad_samples.share()
        interval.records[-1]["margin"] |= margin_state(self.parts.head)
        self.metrics.step(interval.records)
        self._tell(summary(interval.records, steps=self.config.steps), bar)
        return interval.stop

    def _evaluate(self, bar: "tqdm[NoReturn]") -> None:
        for name, pairs in self.parts.verification.items():
            result = verify(
                self.parts.engine.evaluate,
                pairs,
                rank=self.topology.rank,
                world_size=self.topology.world_size,
                group=self.topology.group,
                device=str(self.topology.device),
                image_size=self.config.data.image_size,
                threads=self.config.data.threads,
            )
            self.metrics.evaluation(result.record(step=self.step, name=name))
            self._tell(
                f"{name}: accuracy {result.accuracy:.2%} ± {result.accuracy_std:.2%}"
                f" over {result.num_pairs} pairs",
                bar,
            )

    def _look_at_centres(self, bar: "tqdm[NoReturn]") -> None:
        if not isinstance(self.parts.head, ShardedHead):
            return
        publish_centres(self.parts.head, self.metrics)
        limit = self.config.head.conflict_cosine
        if limit is not None:
            conflicts = self.folder / run_folder.CONFLICTS
            self._tell(write_conflicts(self.parts.head, conflicts, conflict_cosine=limit), bar)

    def _save(self, bar: "tqdm[NoReturn]", *, must: bool) -> None:
        """Save; where that fails training goes on till the next time, unless this is the last."""
        if self.step == self.saved_step:
            return
        began = time.perf_counter()
        try:
            path = checkpoint.save(
                self.folder / "checkpoints",
                step=self.step,
                samples_seen=self.step * self.config.batch.size,
                config=plain(self.config),
                data={"bad_samples": self.bad_samples.for_checkpoint()},
                engine=self.parts.engine,
                head=self.parts.head,
                gallery=self.parts.gallery,
                topology=self.topology,
                keep=self.config.checkpoint.keep,
            )
        except RunError as error:
            self.metrics.checkpoint_failed()
            if must:
                raise RunError(f"{error}, then start the run again: it continues") from error
            self._tell(f"step {self.step}: not saved, training goes on: {error}", bar)
            return
        self.saved_step = self.step
        self.metrics.checkpoint(
            seconds=time.perf_counter() - began,
            size_bytes=sum(file.stat().st_size for file in path.iterdir()),
        )

    def _resume(self) -> int:
        """Load the newest good checkpoint; the step it was taken at, 0 without one."""
        path, refused = checkpoint.newest(self.folder / "checkpoints", topology=self.topology)
        for reason in refused:
            log.warning("a checkpoint is damaged and not used: %s", reason)
        if path is None:
            step = 0
        else:
            manifest = checkpoint.load(
                path,
                engine=self.parts.engine,
                head=self.parts.head,
                gallery=self.parts.gallery,
                topology=self.topology,
            )
            self.bad_samples.restore(manifest.data["bad_samples"])
            step = manifest.step
            for line in manifest.differences(world_size=self.topology.world_size):
                log.warning("the resume will not be equal to the bit: %s", line)
            log.info("continuing from %s", path.name)
        if self.topology.rank == 0:
            truncate_history(self.folder, step)
        return step

    def _progress(self) -> "tqdm[NoReturn]":
        return tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.config.name,
            unit="step",
            dynamic_ncols=True,
            disable=self.topology.rank != 0 or not sys.stderr.isatty(),
        )

    def _tell(self, line: str, bar: "tqdm[NoReturn]") -> None:
        if self.topology.rank == 0:
            bar.write(line, file=sys.stdout)
            sys.stdout.flush()
            log.info(line)


def summary(records: list[dict[str, Any]], *, steps: int) -> str:
    """The interval in one line, for the terminal and the log."""
    last = records[-1]
    seconds = sum(record["seconds"]["total"] for record in records)
    images = sum(record["images_per_second"] * record["seconds"]["total"] for record in records)
    waited = sum(record["seconds"]["data_wait"] for record in records)
    left = int((steps - last["step"]) * seconds / len(records))
    return (
        f"step {last['step']}/{steps}  epoch {last['epoch']:.2f}"
        f"  loss {last['loss']:.3f}  cosine {last['target_cosine']:.3f}"
        f"  lr {last['learning_rate']:.2g}  {images / seconds:.0f} images/s"
        f"  data wait {waited / seconds:.0%}  {left // 60}:{left % 60:02d} left"
    )


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send this package's log to the rank's file while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    level, log.level = log.level, logging.INFO
    try:
        yield
    finally:
        log.level = level
        log.removeHandler(handler)
        handler.close()
