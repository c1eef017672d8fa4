"""Checking a dataset: images a second over workers, against a plain loop.

    python -m tests.benchmarks.bench_check [--images 20000] [--workers 1 2] [--repeats 5] [--record]

The plain loop is what one writes first: Python's `tarfile` over every shard, Pillow's `verify` and
`load` for every image, a number out of every label. The check does more: it follows each tar to its
end, compares all files with their sha256, all images with their CRC-32, labels, sizes and places
with the index, and keys with each other. Both read the same shards of 112 x 112 JPEGs, which lie in
the system's page cache.

Worker processes import this module again, so what is slow to import is imported where it is used.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image

SIDE = 112
SHARD_BYTES = 4 << 20  # so that a few thousand images are enough shards for two workers


def plain_loop(folder: Path) -> int:
    """How many samples a loop over the tars finds sound."""
    sound = 0
    for path in sorted(folder.glob("*.tar")):
        found: dict[str, set[str]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None, "a shard has files alone"
                content = stream.read()
                key, _, suffix = member.name.partition(".")
                if suffix == "cls":
                    assert int(content) >= 0
                else:
                    with Image.open(io.BytesIO(content)) as image:
                        image.verify()
                    with Image.open(io.BytesIO(content)) as image:
                        image.load()
                found.setdefault(key, set()).add(suffix)
        sound += sum(suffixes == {"cls", "jpg"} for suffixes in found.values())
    return sound


def ours(folder: Path, *, workers: int) -> int:
    """The same with `check`, which must find nothing."""
    from data_pipeline.checking.check import check

    report = check(str(folder), workers=workers)
    assert not report.findings.counts, report.findings.counts
    return report.samples


def rate(work: Callable[[Path], int], folder: Path, images: int) -> float:
    """Images a second of one run, starting workers included."""
    start = time.perf_counter()
    found = work(folder)
    seconds = time.perf_counter() - start
    assert found == images, f"{found} of {images}"
    return images / seconds


def main() -> None:
    """Run all in turn and print, or record, their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    from data_pipeline.pack import pack
    from tests.benchmarks.record import interleaved, record
    from tests.benchmarks.tiny_source import TinySource

    candidates: dict[str, Callable[[Path], int]] = {"plain loop": plain_loop}
    for workers in options.workers:
        candidates[f"check, {workers} workers"] = partial(ours, workers=workers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "faces"
        source = TinySource(options.images, side=SIDE)
        dataset = pack(source, folder, workers=max(options.workers), shard_bytes=SHARD_BYTES)
        size = sum(shard.bytes for shard in dataset.shards)
        figures = interleaved(
            {
                name: partial(rate, work, folder, options.images)
                for name, work in candidates.items()
            },
            options.repeats,
        )
    plain = median(figures["plain loop"])
    rows = [
        {
            "what": name,
            "images/s": round(median(rounds)),
            "slowest": round(min(rounds)),
            "fastest": round(max(rounds)),
            "of the plain loop": median(rounds) / plain,
        }
        for name, rounds in figures.items()
    ]
    notes = [
        f"{options.images} JPEGs of {SIDE} x {SIDE}, {len(dataset.shards)} shards of "
        f"{SHARD_BYTES >> 20} MiB, {size / options.images:,.0f} bytes a sample; medians of "
        f"{options.repeats} rounds in turn, on {len(os.sched_getaffinity(0))} cores",
        "the plain loop compares nothing with an index",
    ]
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    for note in notes:
        print(note)
    if options.record:
        command = f"python -m tests.benchmarks.bench_check {' '.join(sys.argv[1:])}".strip()
        print(record("check", rows, command=command, notes=notes), file=sys.stderr)


if __name__ == "__main__":
    main()
