"""Bringing faces upright: images a second against OpenCV's way, and how far the crops differ.

    python -m tests.benchmarks.bench_align [--images 2000] [--size 250] [--rows 1000000] [--record]

Both decode a JPEG, find the transform of its five points, cut a crop of 112 x 112 and encode it at
quality 95, in one process and on one thread. Rows is the size of a file of landmarks that is
opened.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from data_pipeline.align import FACE_112, Crop, fit_similarity, warp
from data_pipeline.alignment import Alignment
from data_pipeline.jpeg import Preparation, upright_pixels
from data_pipeline.landmarks import FileLandmarks
from tests.benchmarks.record import interleaved, record
from tests.data_pipeline.faces import jpeg
from tests.data_pipeline.pictures import MemorySource

CROP = Crop(112, 112)
CHUNK = 32  # images prepared at once, as while packing
DIFFERENT = 64  # images, over and over


def points_of(images: int, size: int) -> np.ndarray:
    """Points of faces that are turned, scaled and moved a little: images x 5 x 2."""
    generator = np.random.default_rng(0)
    angle, scale = generator.uniform(-0.5, 0.5, images), generator.uniform(0.8, 1.4, images)
    turn = np.stack((np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)), axis=1)
    matrix = (scale[:, None] * turn * size / 250).reshape(-1, 2, 2)
    centre = size / 2 + generator.uniform(-0.05, 0.05, (images, 1, 2)) * size
    return (FACE_112 - FACE_112.mean(axis=0)) @ matrix.transpose(0, 2, 1) + centre


def write_points(path: Path, names: list[str], points: np.ndarray) -> Path:
    """A file of landmarks."""
    with path.open("w") as stream:
        for name, face in zip(names, points.reshape(-1, 10).tolist(), strict=True):
            stream.write(f"{name} {' '.join(map(str, face))}\n")
    return path


def ours(preparation: Preparation, names: list[tuple[str, str]]) -> float:
    """Images a second of `Preparation`."""
    start = time.perf_counter()
    for first in range(0, len(names), CHUNK):
        preparation.prepare_all(names[first : first + CHUNK])
    return len(names) / (time.perf_counter() - start)


def opencvs(source: MemorySource, names: list[tuple[str, str]], points: np.ndarray) -> float:
    """Images a second of the usual script: one image after the other."""
    start = time.perf_counter()
    for name, face in zip(names, points, strict=True):
        image = cv2.imdecode(np.frombuffer(source.images[name], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        matrix, _ = cv2.estimateAffinePartial2D(face, FACE_112, method=cv2.LMEDS)
        crop = cv2.warpAffine(image, matrix, (CROP.width, CROP.height), borderValue=(0.0,))
        cv2.imencode(".jpg", crop, (cv2.IMWRITE_JPEG_QUALITY, 95))
    return len(names) / (time.perf_counter() - start)


def difference(source: MemorySource, names: list[tuple[str, str]], points: np.ndarray) -> str:
    """How far our crops are from OpenCV's of the same transforms."""
    matrices = fit_similarity(points, FACE_112).matrix
    steps = []
    for name, matrix in zip(names[:DIFFERENT], matrices, strict=False):
        image = upright_pixels(source.images[name])
        theirs = cv2.warpAffine(image, matrix, (CROP.width, CROP.height), borderValue=(0.0,))
        steps.append(np.abs(warp(image, matrix, CROP).astype(int) - theirs))
    return (
        f"crops differ from OpenCV {cv2.__version__} by at most {np.max(steps)} of 255, in "
        f"{np.mean(np.array(steps) > 0):.2%} of the values"
    )


def opening(folder: Path, rows: int) -> str:
    """How long a file of landmarks takes to open."""
    names = [f"{i // 20}/{i}.jpg" for i in range(rows)]
    path = write_points(folder / "many.txt", names, points_of(rows, 250).round(3))
    start = time.perf_counter()
    FileLandmarks.open(path)
    return f"{rows:,} landmarks opened in {time.perf_counter() - start:.1f} s"


def main() -> None:
    """Run both and print, or record, their table."""
    parser = argparse.ArgumentParser(description="Speed of bringing faces upright.")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=250, help="side of the pictures, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    pictures = [jpeg(seed, height=options.size, width=options.size) for seed in range(DIFFERENT)]
    names = [(str(i // 20), f"{i}.jpg") for i in range(options.images)]
    source = MemorySource({name: pictures[i % DIFFERENT] for i, name in enumerate(names)})
    points = points_of(options.images, options.size)
    with tempfile.TemporaryDirectory() as folder:
        file = write_points(Path(folder) / "points.txt", ["/".join(name) for name in names], points)
        preparation = Preparation(
            source=source, max_pixels=options.size**2, alignment=Alignment.of_file(file)
        )
        figures = interleaved(
            {
                "OpenCV": partial(opencvs, source, names, points),
                "Preparation": partial(ours, preparation, names),
            },
            options.repeats,
        )
        notes = [difference(source, names, points)]
        if options.rows:
            notes.append(opening(Path(folder), options.rows))
    rows = [
        {
            "what": name,
            "images/s": round(median(rounds)),
            "slowest": round(min(rounds)),
            "fastest": round(max(rounds)),
            "of OpenCV": median(rounds) / median(figures["OpenCV"]),
        }
        for name, rounds in figures.items()
    ]
    notes.insert(0, f"{options.size} x {options.size}, medians of {options.repeats} rounds in turn")
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    for note in notes:
        print(note)
    if options.record:
        command = f"python -m tests.benchmarks.bench_align {' '.join(sys.argv[1:])}"
        print(record("align", rows, command=command, notes=notes), file=sys.stderr)


if __name__ == "__main__":
    main()
