"""Writing the images of a listing into shards, and going on where an earlier pack stopped.

Worker processes read, check and fingerprint images; this one writes. After every shard the journal
knows how to go on, so only the images of the last, unfinished shard are done again after a kill.
No more than a shard's records and a few chunks of images are held.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipeline.alignment import NO_LANDMARKS
from data_pipeline.errors import DataError
from data_pipeline.fingerprint import Examination, Examined
from data_pipeline.index import Shard
from data_pipeline.journal import NAMED, TRACE, Journal, Tally
from data_pipeline.listing import ListedImage, Listing
from data_pipeline.processes import WorkerLostError, map_in_order
from data_pipeline.progress import progress_bar
from data_pipeline.shard_writer import ShardWriter

CHUNK = 32  # images a worker gets at once


class Packing:
    """The shards of one pack as they come to be, and what was counted on the way."""

    def __init__(self, listing: Listing, journal: Journal) -> None:
        """Go on where the journal ends."""
        self.tally = Tally()
        self._listing = listing
        self._journal = journal
        self._position = 0
        self._trace: list[tuple[int, int, tuple[int, int], tuple[int, ...]]] = []
        if journal.finished:
            self.tally = journal.finished[-1].tally
            self._position = journal.finished[-1].next_position

    def write_shards(
        self,
        folder: Path,
        examination: Examination,
        *,
        shard_bytes: int,
        max_unreadable: float,
        workers: int,
        show_progress: bool,
    ) -> None:
        """Pack all images that are not in a finished shard yet."""
        listing = self._listing
        with (
            progress_bar(
                "packing",
                total=listing.num_images,
                done=self._position,
                unit=" images",
                show=show_progress,
            ) as bar,
            self._journal,
            ShardWriter(
                folder,
                shard_bytes=shard_bytes,
                finished=self._journal.shards,
                on_complete=self._complete,
            ) as writer,
        ):
            images = listing.images(self._position)
            for listed, examined in _examined(images, examination, workers=workers):
                self._add(listed, examined, writer)
                self._position += 1
                bar.update()
            self._refuse_unreadable(max_unreadable)

    def _add(self, listed: ListedImage, examined: Examined | str, writer: ShardWriter) -> None:
        if examined == NO_LANDMARKS:
            self.tally = replace(self.tally, faceless=self.tally.faceless + 1)
            return
        if isinstance(examined, str):
            self.tally = self.tally.with_unreadable(f"{listed.identity}/{listed.image}: {examined}")
            return
        writer.add(examined.jpeg.content, label=listed.label)  # may complete the shard before it
        self.tally = self.tally.with_image(examined.jpeg)
        self._trace.append((self._position, listed.label, examined.digest, examined.look))

    def _complete(self, shard: Shard) -> None:
        self._journal.append(
            shard,
            np.array(self._trace, TRACE),
            next_position=self._position,
            tally=self.tally,
        )
        self._trace = []

    def _refuse_unreadable(self, max_unreadable: float) -> None:
        count, total = self.tally.unreadable, self._listing.num_images
        if self.tally.faceless == total:
            raise DataError("no image of the source has landmarks of a face; see to the detector")
        if count + self.tally.faceless == total or count > max_unreadable * total:
            raise DataError(
                f"{count} of {total} images cannot be read, more than the allowed share of "
                f"{max_unreadable:g}; remove them or allow more. They are: "
                + "; ".join(self.tally.named)
                + (f"; and {count - NAMED} more" if count > NAMED else "")
            )


def _examined(
    images: Iterator[ListedImage], examination: Examination, *, workers: int
) -> Iterator[tuple[ListedImage, Examined | str]]:
    waiting: deque[list[ListedImage]] = deque()

    def chunks() -> Iterator[list[tuple[str, str]]]:
        while chunk := list(islice(images, CHUNK)):
            waiting.append(chunk)
            yield [(listed.identity, listed.image) for listed in chunk]

    try:
        for results in map_in_order(examination.examine_all, chunks(), workers=workers):
            yield from zip(waiting.popleft(), results, strict=True)
    except WorkerLostError as error:
        given = ", ".join(repr(f"{listed.identity}/{listed.image}") for listed in waiting[0])
        raise DataError(f"{error}; or remove one of the images it was given: {given}") from None
