"""Reads a plan's faces ahead of training, in the background.

    plan (which samples) -> shards (bytes) -> DALI (pixels) -> FaceBatch, `prefetch` steps ahead

`Loader` is for training: endless, augmented, bad samples replaced. `read_batches` is for
verification: the samples asked for, in order, unchanged, and a bad one is an error. Which stand-in
a bad sample gets is decided in `assembly`.
"""

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, islice
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch

from data_pipeline.assembly import MOST_OPEN_SHARDS, Assembler, face_batch
from data_pipeline.augment import Augmentation, Parameters
from data_pipeline.batch import FaceBatch
from data_pipeline.decode import UNDER_WAY, Decoder, UndecodableError
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.orders import Order
from data_pipeline.read_ahead import ReadAhead
from data_pipeline.shards import BadSampleError, EncodedFace, ShardReader

CLOSE_TIMEOUT_S = 30.0  # a micro-batch takes a second at most, a dead file system for ever

log = logging.getLogger(__name__)


class LoadedStep(NamedTuple):
    """A rank's share of one step."""

    batches: list[FaceBatch]
    digests: list[int]
    """One for each batch: which samples, in which order."""
    quarantined: dict[int, str]
    """Bad samples found while this step was made, with the reason; they were replaced."""


class Loader:
    """A rank's micro-batches, step after step without end; iterate over it, then `close()` it."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Order,
        share: range,
        *,
        image_size: int,
        augmentation: Augmentation,
        device: str = "cpu",
        threads: int = 1,
        start_step: int = 0,
        quarantine: Mapping[int, str],
        bad_sample_budget: int,
        prefetch: int = 2,
    ) -> None:
        """Start reading micro-batches `share` of step `start_step`.

        `quarantine` names samples known to be bad, with the reason; a run that resumes passes what
        it has found so far and gets the batches it would have got. More than `bad_sample_budget`
        of them is a `DataError`. `prefetch` steps at most are kept ready.
        """
        if tuple(plan.shard_sizes) != tuple(shard.samples for shard in dataset.shards):
            raise ValueError(f"the plan was made for other shards than those of {dataset.path}")
        if not share or share[0] < 0 or share[-1] >= plan.micro_batches:
            raise ValueError(f"{share} is no share of {plan.micro_batches} micro-batches")
        if prefetch < 1 or threads < 1:
            raise ValueError(f"prefetch is {prefetch} and threads {threads}; both must be positive")
        known = dict(quarantine)

        def steps(stopping: threading.Event) -> Generator[LoadedStep, None, None]:
            assembler = Assembler(
                dataset,
                plan,
                lanes=len(share),
                image_size=image_size,
                augmentation=augmentation,
                device=device,
                threads=threads,
                quarantine=known,
                bad_sample_budget=bad_sample_budget,
            )
            with (
                closing(assembler),
                closing(ReadAhead(dataset, plan, share, start_step=start_step)) as ahead,
            ):
                yield from _steps(assembler, ahead, share, start_step, stopping)

        self._device = torch.device(device)
        self._reading = _Background(steps, ahead=prefetch)
        self._stop = weakref.finalize(self, self._reading.stop)  # also when forgotten, or at exit

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> LoadedStep:
        if not self._stop.alive:
            raise RuntimeError("the loader is closed")
        step = self._reading.take()
        return step._replace(batches=[_hand_over(batch, self._device) for batch in step.batches])

    def close(self) -> None:
        """Stop reading, close all files and end the thread."""
        self._stop()


class _Background:
    """Runs an iterator in a thread, `ahead` items ahead; knows nothing of the `Loader`.

    A `Loader` that nobody refers to any more can therefore be collected, which stops the thread.
    """

    def __init__(
        self, make: Callable[[threading.Event], Generator[LoadedStep, None, None]], *, ahead: int
    ) -> None:
        self._make = make
        self._free = threading.Semaphore(ahead)
        self._ready: SimpleQueue[LoadedStep | BaseException] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="facescale-loader", daemon=True)
        self._thread.start()

    def take(self) -> LoadedStep:
        """The next item; whatever ended the thread is raised here, again and again."""
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)
            raise item
        self._free.release()
        return item

    def stop(self) -> None:
        """End the thread, at the latest after the micro-batch it is at."""
        self._stopping.set()
        self._free.release()
        if threading.current_thread() is self._thread:
            return  # the garbage collector ran there and found the loader
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("a read has not returned for %.0f s; leaving it behind", CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        end: BaseException = RuntimeError("the loader is closed")
        try:
            self._free.acquire()
            with closing(self._make(self._stopping)) as steps:
                for step in steps:
                    self._ready.put(step)
                    self._free.acquire()
                    if self._stopping.is_set():
                        break
        except BaseException as error:
            end = error
        self._ready.put(end)


def _steps(
    assembler: Assembler,
    ahead: ReadAhead,
    share: range,
    start_step: int,
    stopping: threading.Event,
) -> Iterator[LoadedStep]:
    def places() -> Iterator[tuple[int, int]]:
        for step in count(start_step):
            ahead.reached(step)
            for lane in share:
                if stopping.is_set():
                    return
                yield step, lane

    micro_batches = assembler.micro_batches(places())
    while len(made := list(islice(micro_batches, len(share)))) == len(share):
        quarantined: dict[int, str] = {}
        for micro_batch in made:
            quarantined |= micro_batch.quarantined
        yield LoadedStep([m.batch for m in made], [m.digest for m in made], quarantined)


def read_batches(
    dataset: Dataset,
    samples: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    image_size: int,
    device: str = "cpu",
    threads: int = 1,
) -> Iterator[FaceBatch]:
    """These samples in this order, not augmented; the last batch may be short.

    A sample that cannot be used is a `DataError` that names it: a verification with other faces
    than its pairs name would mean nothing. While one batch is used, the next one is decoded.
    """
    numbers = np.asarray(samples, np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < dataset.num_samples:
        raise DataError(f"{dataset.path} has samples 0 to {dataset.num_samples - 1}, not all asked")
    augmentation = Augmentation()
    reader = ShardReader(dataset, max_open=MOST_OPEN_SHARDS)
    decoder = Decoder(
        batch_size=batch_size,
        image_size=image_size,
        augmentation=augmentation,
        resizes=dataset.image_size != (image_size, image_size),
        device=device,
        threads=threads,
    )

    under_way: deque[tuple[list[EncodedFace], np.ndarray, Parameters]] = deque()

    def finish() -> FaceBatch:
        try:
            image = decoder.collect()
        except UndecodableError:
            for faces, chosen, parameters in under_way:
                bad = decoder.undecodable([face.content for face in faces], parameters)
                if bad:
                    raise BadSampleError(int(chosen[bad[0]]), "decode") from None
            raise
        faces, chosen, _ = under_way.popleft()
        return _hand_over(face_batch(image, faces, chosen), torch.device(device))

    with closing(reader), closing(decoder):
        try:
            for start in range(0, len(numbers), batch_size):
                chosen = numbers[start : start + batch_size].copy()
                faces = [reader.read_image(sample) for sample in chosen.tolist()]
                parameters = augmentation.parameters(np.zeros_like(chosen), chosen)
                decoder.submit([face.content for face in faces], parameters)
                under_way.append((faces, chosen, parameters))
                if len(under_way) == UNDER_WAY:
                    yield finish()
            while under_way:
                yield finish()
        except BadSampleError as error:
            raise DataError(
                f"{dataset.path}: {reader.where(error.sample)} cannot be used ({error.reason}); "
                "copy or pack the dataset again"
            ) from error


def _hand_over(batch: FaceBatch, device: torch.device) -> FaceBatch:
    """Give a batch to the stream that the caller computes on."""
    if device.type == "cpu":
        return batch
    image = batch.image
    image.record_stream(torch.cuda.current_stream(device))  # it was made on the decoder's stream
    label, sample = (
        part.pin_memory().to(device, non_blocking=True) for part in (batch.label, batch.sample)
    )
    return FaceBatch(image, label, sample)
