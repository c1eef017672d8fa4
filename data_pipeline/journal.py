"""What a pack has finished, so that a killed one goes on after its last whole shard.

The journal has a line for each finished shard, sealed by a CRC-32 and written after the shard's
files are on the disk: what the index will say of it, the place in the order of images where the
next one begins, and what was counted up to there. Beside it lie the shards' traces, one record a
sample. A shard whose files differ from its line is packed again, as are those after.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from zlib import crc32

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.fingerprint import WORDS
from data_pipeline.index import File, Shard, sha256_of
from data_pipeline.jpeg import Jpeg
from data_pipeline.partial import sync
from data_pipeline.progress import progress_bar

NAMED = 20  # unreadable images that are named; all are counted
TRACE = np.dtype(
    [
        ("position", "<i8"),  # in the order of images
        ("label", "<i8"),
        ("digest", "<u8", (2,)),  # of the bytes
        ("look", "<u8", (WORDS,)),  # of the picture, 0 where nobody asked
    ]
)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What packing counts on its way."""

    unreadable: int = 0
    named: tuple[str, ...] = ()
    """The first of the unreadable images by name, each with the reason."""
    faceless: int = 0
    """Images in which a detector found no face, where those are left out."""
    encoded_again: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width): the one of all images, or two of several."""

    def with_unreadable(self, line: str) -> "Tally":
        """With one more image that cannot be read."""
        named = tuple(sorted((*self.named, line))[:NAMED])
        return replace(self, unreadable=self.unreadable + 1, named=named)

    def with_image(self, jpeg: Jpeg) -> "Tally":
        """With one more image that is packed."""
        size = (jpeg.height, jpeg.width)
        known = size in self.sizes or len(self.sizes) == 2
        if known and not jpeg.encoded_again:
            return self
        return replace(
            self,
            encoded_again=self.encoded_again + jpeg.encoded_again,
            sizes=self.sizes if known else (*self.sizes, size),
        )


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A line of the journal."""

    shard: Shard
    trace: File
    next_position: int
    """Of the first image that is in neither this shard nor an earlier one."""
    tally: Tally

    def as_line(self) -> str:
        """The line."""
        return _sealed(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> "Finished":
        """The reverse; a `ValueError`, `TypeError` or `KeyError` where it is cut or damaged."""
        fields = _unsealed(line)
        files = {name: File(**fields["shard"][name]) for name in ("tar", "members", "idx")}
        tally = fields["tally"]
        tally |= {"named": tuple(tally["named"]), "sizes": tuple(map(tuple, tally["sizes"]))}
        return cls(
            shard=Shard(**fields["shard"] | files),
            trace=File(**fields["trace"]),
            next_position=fields["next_position"],
            tally=Tally(**tally),
        )


class Journal:
    """Finished shards in the order of packing; as a context, it writes in the background."""

    def __init__(self, dataset: Path, scratch: Path) -> None:
        """Of a pack whose shards lie in `dataset` and whose journal and traces in `scratch`."""
        self.finished: list[Finished] = []
        self._dataset = dataset
        self._scratch = scratch
        self._path = scratch / "journal.jsonl"
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    @property
    def shards(self) -> list[Shard]:
        """The finished shards."""
        return [finished.shard for finished in self.finished]

    def resume(self, options: Mapping[str, Any], *, threads: int, show_progress: bool) -> None:
        """Find the shards that are whole, and remove everything else from the dataset's folder.

        A journal of other options is refused; where there is none, one with these begins. Files
        are read by so many threads.
        """
        lines = self._lines()
        if len(lines) > 1:
            _refuse_other_options(self._scratch.parent, lines[0], options)
        bar = progress_bar(
            "checking", total=len(lines) - 1, unit=" shards", show=show_progress and len(lines) > 1
        )
        with ThreadPoolExecutor(threads) as readers, bar:
            for finished in readers.map(self._whole, lines[1:]):
                if finished is None:
                    break
                self.finished.append(finished)
                bar.update()
            readers.shutdown(cancel_futures=True)
        kept = {name for finished in self.finished for name in finished.shard.files()}
        for path in self._dataset.iterdir():
            if path.name not in kept:
                path.unlink()
        beside = self._path.with_suffix(".new")
        written = [_sealed(options), *(f.as_line() for f in self.finished)]
        beside.write_text("".join(written), encoding="ascii")
        sync(beside)
        beside.rename(self._path)
        sync(self._scratch)

    def has_shards(self) -> bool:
        """Whether an earlier pack finished any, whole or not by now."""
        return len(self._lines()) > 1

    def append(self, shard: Shard, trace: np.ndarray, *, next_position: int, tally: Tally) -> None:
        """Note a shard once its files are on the disk."""
        path = self.trace_of(shard)
        trace.tofile(path)
        finished = Finished(
            shard=shard,
            trace=File(bytes=trace.nbytes, sha256=sha256_of(path)),
            next_position=next_position,
            tally=tally,
        )
        self.finished.append(finished)
        self._settle()
        self._pending = self._writer.submit(self._write, finished)

    def trace_of(self, shard: Shard) -> Path:
        """The file of a shard's `TRACE` records, in order of samples."""
        return self._scratch / f"{shard.name}.trace"

    def __enter__(self) -> "Journal":
        """Everything is written at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Wait for the last line; its error is raised unless there is another one already."""
        try:
            if kind is None:
                self._settle()
        finally:
            self._writer.shutdown()

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write(self, finished: Finished) -> None:
        for name in finished.shard.files():
            sync(self._dataset / name)
        sync(self._dataset)
        sync(self.trace_of(finished.shard))
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(finished.as_line())
            stream.flush()
            os.fsync(stream.fileno())

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text("ascii", "replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _whole(self, line: str) -> Finished | None:
        try:
            finished = Finished.of_line(line)
            files = {self._dataset / name: file for name, file in finished.shard.files().items()}
            files[self.trace_of(finished.shard)] = finished.trace
            same = all(
                path.stat().st_size == file.bytes and sha256_of(path) == file.sha256
                for path, file in files.items()
            )
        except (ValueError, TypeError, KeyError, OSError):
            return None
        return finished if same else None


def _sealed(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields)
    return f"{crc32(text.encode()):08x} {text}\n"


def _unsealed(line: str) -> dict[str, Any]:
    seal, _, text = line.rstrip("\n").partition(" ")
    if seal != f"{crc32(text.encode()):08x}":
        raise ValueError("not the line that was written")
    return json.loads(text)


def _refuse_other_options(partial: Path, line: str, options: Mapping[str, Any]) -> None:
    try:
        before = _unsealed(line)
    except ValueError:
        raise DataError(
            f"{partial} holds an unfinished pack, but of what cannot be read; give its shards up "
            "with `--restart`"
        ) from None
    for name in (*options, *before):
        was, now = before.get(name), options.get(name)
        if was != now:
            what = "another source" if name == "source" else f"{name} {was}, not {now}"
            raise DataError(
                f"{partial} holds an unfinished pack of {what}; repeat that command to finish it, "
                "or give its shards up with `--restart`"
            )
