"""Puts together the micro-batches of a plan: bytes, pixels, and a stand-in for every bad sample.

A sample is bad when its bytes cannot be read, differ from their CRC-32 or do not decode, when its
header asks for too many pixels, or when its label does not exist. A read that fails is tried again
before: a file server may be busy for a moment, and what was bad once stays so. The rule of
replacement: **the k-th bad place of a micro-batch takes the k-th good sample that follows the
micro-batch in its lane**, with that one's label, epoch and augmentation. So a batch is a function
of the plan and of which samples are bad, no matter whether that was known before (the quarantine of
a checkpoint) or is found on the way.

Nothing here runs in the background but DALI's own threads.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
import torch

from data_pipeline.augment import Augmentation, Parameters
from data_pipeline.batch import FaceBatch, digest
from data_pipeline.decode import UNDER_WAY, Decoder, UndecodableError
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.orders import Order
from data_pipeline.shards import BadSampleError, EncodedFace, Reason, ShardReader

NAMED_BAD_SAMPLES = 10  # an error is one line
MOST_OPEN_SHARDS = 256  # a quarter of the usual limit of open files
READ_PAUSES_S = (0.1, 1.0)  # before a read is tried again; then its sample counts as bad


class MicroBatch(NamedTuple):
    """A batch, the fingerprint of its samples, and the bad samples found for it."""

    batch: FaceBatch
    digest: int
    quarantined: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Readable bytes for every place of a micro-batch, on their way through the decoder."""

    step: int
    lane: int
    faces: list[EncodedFace]
    sample: np.ndarray
    parameters: Parameters
    found: dict[int, str]
    """Bad samples found for it, added to until it is done."""

    @property
    def contents(self) -> list[bytes]:
        return [face.content for face in self.faces]


class Assembler:
    """Makes the micro-batches of a rank; owns its open files, its decoder and its quarantine."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Order,
        *,
        lanes: int,
        image_size: int,
        augmentation: Augmentation,
        device: str,
        threads: int,
        quarantine: Mapping[int, str],
        bad_sample_budget: int,
    ) -> None:
        self._dataset = dataset
        self._plan = plan
        self._augmentation = augmentation
        self._quarantine = dict(quarantine)
        self._budget = bad_sample_budget
        self._reader = ShardReader(
            dataset, max_open=min(MOST_OPEN_SHARDS, lanes * plan.shuffle_window)
        )
        self._check_budget()
        self._decoder = Decoder(
            batch_size=plan.micro_batch_size,
            image_size=image_size,
            augmentation=augmentation,
            resizes=dataset.image_size != (image_size, image_size),
            device=device,
            threads=threads,
        )

    def micro_batches(self, places: Iterable[tuple[int, int]]) -> Iterator[MicroBatch]:
        """The micro-batches (step, lane) in turn; one is decoded while the next is read."""
        under_way: deque[_Drawn] = deque()
        for step, lane in places:
            under_way.append(self._start(step, lane, {}))
            if len(under_way) == UNDER_WAY:
                yield self._finish(under_way)
        while under_way:
            yield self._finish(under_way)

    def close(self) -> None:
        """Close the files and stop the decoder's threads."""
        self._reader.close()
        self._decoder.close()

    def _start(self, step: int, lane: int, found: dict[int, str]) -> _Drawn:
        """Read a micro-batch, with stand-ins for what is bad, and have it decoded."""
        drawn = self._draw(step, lane, found)
        self._decoder.submit(drawn.contents, drawn.parameters)
        return drawn

    def _draw(self, step: int, lane: int, found: dict[int, str]) -> _Drawn:
        sample, epoch = self._plan.micro_batch(step, lane)
        sample, epoch = sample.copy(), epoch.copy()
        faces = [self._read(number, found) for number in sample.tolist()]
        bad_places = [place for place, face in enumerate(faces) if face is None]
        after = (step + 1) * self._plan.micro_batch_size
        for place, spare in zip(bad_places, self._good_from(lane, after, found), strict=False):
            faces[place], sample[place], epoch[place] = spare
        return _Drawn(
            step=step,
            lane=lane,
            faces=[face for face in faces if face is not None],
            sample=sample,
            parameters=self._augmentation.parameters(epoch, sample),
            found=found,
        )

    def _good_from(
        self, lane: int, position: int, found: dict[int, str]
    ) -> Iterator[tuple[EncodedFace, int, int]]:
        """Good faces of a lane from a position on, each with its sample number and epoch."""
        for place in count(position):
            sample, epoch = self._plan.lane_sample(lane, place)
            face = self._read(sample, found)
            if face is not None:
                yield face, sample, epoch

    def _finish(self, under_way: deque[_Drawn]) -> MicroBatch:
        """Wait for the oldest; where decoding fails, find the bad images and do all again."""
        while True:
            try:
                image = self._decoder.collect()
                break
            except UndecodableError:
                bad = [
                    (drawn, int(drawn.sample[place]))
                    for drawn in under_way
                    for place in self._decoder.undecodable(drawn.contents, drawn.parameters)
                ]
                if not bad:
                    raise
            for drawn, sample in bad:
                if sample not in self._quarantine:
                    self._add_bad(sample, "decode", drawn.found)
            for lost in [under_way.popleft() for _ in range(len(under_way))]:
                under_way.append(self._start(lost.step, lost.lane, lost.found))
        drawn = under_way.popleft()
        batch = face_batch(image, drawn.faces, drawn.sample)
        return MicroBatch(batch, digest(drawn.sample), drawn.found)

    def _read(self, sample: int, found: dict[int, str]) -> EncodedFace | None:
        if sample in self._quarantine:
            return None
        for pause in (*READ_PAUSES_S, None):
            try:
                return self._reader.read_image(sample)
            except BadSampleError as error:
                if error.reason != "read" or pause is None:
                    self._add_bad(sample, error.reason, found)
                    return None
            except DataError as error:  # its shard's records
                if not isinstance(error.__cause__, OSError) or pause is None:
                    raise
            time.sleep(pause)
            self._reader.close()  # the handle itself may have become invalid
        raise AssertionError("the last try returns or raises")

    def _add_bad(self, sample: int, reason: Reason, found: dict[int, str]) -> None:
        self._quarantine[sample] = found[sample] = reason
        self._check_budget()

    def _check_budget(self) -> None:
        bad = self._quarantine
        if len(bad) <= self._budget and len(bad) < self._dataset.num_samples:
            return
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(bad.values()).items()))
        names = [f"{self._reader.where(s)}: {r}" for s, r in list(bad.items())[:NAMED_BAD_SAMPLES]]
        rest = ["..."] if len(bad) > NAMED_BAD_SAMPLES else []
        judged = f"more than the allowed {self._budget}" if len(bad) > self._budget else "so all"
        raise DataError(
            f"{self._dataset.path} has {len(bad)} bad samples ({counts}), {judged}: "
            f"{', '.join(names + rest)}; pack it again, or allow more"
        )


def face_batch(image: torch.Tensor, faces: list[EncodedFace], sample: np.ndarray) -> FaceBatch:
    """Pixels with the labels that belong to them."""
    label = np.fromiter((face.label for face in faces), np.int64, len(faces))
    return FaceBatch(image, torch.from_numpy(label), torch.from_numpy(sample))
