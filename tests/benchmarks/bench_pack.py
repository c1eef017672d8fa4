"""Packing: images a second over workers against a plain loop, and memory against dataset size.

    python -m tests.benchmarks.bench_pack [--images 20000] [--memory 200000 2000000] [--record]

The plain loop is what one writes first: read a file, have Pillow decode it, hand it to WebDataset's
`TarWriter`. Both read the same folder of 112 x 112 JPEGs and write to the same disk. Memory is the
peak resident size of the packing process, in a process of its own for each size; the images are
tiny (16 x 16), for it is their number that matters.

Worker processes import this module again, so what is slow to import is imported where it is used.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from data_pipeline.pack import pack
from data_pipeline.sources.folder import FolderSource
from tests.benchmarks.tiny_source import TinySource

GROWTH_MIB = 100  # wanted between the smallest and the largest of the sizes
PEAK_MIB = 1024  # wanted of the largest
SIDE = 112


def write_faces(folder: Path, images: int) -> None:
    """A folder of identities with ten smooth random pictures each."""
    generator = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(generator.integers(0, 256, (14, 14, 3), np.uint8))
        path = folder / f"identity-{number // 10:06d}" / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=92)


def plain_loop(source: Path, dest: Path) -> None:
    """Read, check and write one image after the other."""
    from webdataset.writer import TarWriter

    dest.mkdir()
    with (dest / "all.tar").open("wb") as stream:
        tar = TarWriter(stream, encoder=False)  # pyright: ignore[reportArgumentType]
        for label, folder in enumerate(sorted(source.iterdir())):
            for path in sorted(folder.iterdir()):
                content = path.read_bytes()
                with Image.open(io.BytesIO(content)) as image:
                    image.load()
                tar.write({"__key__": path.stem, "cls": str(label).encode(), "jpg": content})
        tar.close()


def ours(source: Path, dest: Path, *, workers: int, look_alikes: bool = False) -> None:
    """The same with `pack`."""
    pack(FolderSource.open(source), dest, workers=workers, look_alikes=look_alikes)


def rate(work: Callable[[Path, Path], None], source: Path, images: int) -> float:
    """Images a second of one run, starting workers included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        work(source, Path(folder) / "out")
        return images / (time.perf_counter() - start)


def rates(options: argparse.Namespace, folder: Path) -> list[dict[str, str | float]]:
    """One row a candidate: medians over the rounds."""
    from tests.benchmarks.record import interleaved

    source = folder / "faces"
    write_faces(source, options.images)
    candidates = {"plain loop": plain_loop}
    for workers in options.workers:
        candidates[f"pack, {workers} workers"] = partial(ours, workers=workers)
    most = max(options.workers)
    candidates[f"pack with looks, {most} workers"] = partial(ours, workers=most, look_alikes=True)
    figures = interleaved(
        {name: partial(rate, work, source, options.images) for name, work in candidates.items()},
        options.repeats,
    )
    plain = median(figures["plain loop"])
    return [
        {
            "what": name,
            "images/s": round(median(rounds)),
            "slowest": round(min(rounds)),
            "fastest": round(max(rounds)),
            "of the plain loop": median(rounds) / plain,
            "peak MiB": "",
        }
        for name, rounds in figures.items()
    ]


def memory(images: int, workers: int) -> dict[str, str | float]:
    """A row: the time and the peak memory of packing so many tiny images."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_pack", "--one", str(images)]
    done = json.loads(subprocess.check_output([*command, "--workers", str(workers)], text=True))
    return {
        "what": f"pack, {images:,} tiny images, {workers} workers",
        "images/s": round(images / done["seconds"]),
        "slowest": "",
        "fastest": "",
        "of the plain loop": "",
        "peak MiB": round(done["peak_kib"] / 1024),
    }


def pack_one(images: int, workers: int) -> dict[str, float]:
    """Pack so many tiny images in this process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pack(TinySource(images), Path(folder) / "out", workers=workers, look_alikes=False)
        seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    return {"seconds": seconds, "peak_kib": int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])}


def main() -> None:
    """Run both and print, or record, their table."""
    parser = argparse.ArgumentParser(description="Speed and memory of packing.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[200_000, 2_000_000])
    parser.add_argument("--one", type=int, help="pack so many tiny images and print the peak")
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(pack_one(options.one, max(options.workers))))
        return
    from tests.benchmarks.record import met, record

    with tempfile.TemporaryDirectory() as folder:
        rows = rates(options, Path(folder)) if options.images else []
    sizes = [memory(images, max(options.workers)) for images in sorted(options.memory)]
    rows += sizes
    notes = [
        f"{options.images} JPEGs of {SIDE} x {SIDE} in a folder, medians of {options.repeats} "
        f"rounds in turn, on {len(os.sched_getaffinity(0))} cores"
    ]
    if len(sizes) > 1:
        peaks = [float(row["peak MiB"]) for row in sizes]
        notes.append(met("growth of peak memory, MiB", peaks[-1] - peaks[0], GROWTH_MIB))
        notes.append(met("peak memory, MiB", peaks[-1], PEAK_MIB))
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items() if value != ""))
    for note in notes:
        print(note)
    if options.record:
        command = f"python -m tests.benchmarks.bench_pack {' '.join(sys.argv[1:])}"
        print(record("pack", rows, command=command, notes=notes), file=sys.stderr)


if __name__ == "__main__":
    main()
