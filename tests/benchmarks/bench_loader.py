"""Images a second of the loader, beside bare DALI and webdataset with Pillow or OpenCV.

    python -m tests.benchmarks.bench_loader [--record] [--json] [--device cuda:0]

All candidates read the same made-up faces (112 x 112, about 8 kB each, in the page cache) in a
shuffled order, flip half of them and hand over float32 batches as torch tensors. They take turns,
so that a busy machine is busy for all. The CPU time of an image is given too: it is what training
on the same cores loses. What each set of augmentations costs is in `bench_loader_presets`.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from nvidia.dali.types import DALIDataType, DALIImageType
from PIL import Image
from torch import Tensor
from webdataset.compat import WebDataset, WebLoader

from data_pipeline.augment import Augmentation
from data_pipeline.decode import Decoder
from data_pipeline.index import Dataset
from data_pipeline.loader import Loader
from data_pipeline.plan import Plan
from data_pipeline.shards import ShardReader
from tests.benchmarks.record import interleaved, record
from tests.data_pipeline.faces import dataset_of

FLIP = Augmentation(flip=0.5)
SIDE = 112
SHARDS = 8
WARM_UP = 24  # batches that are not counted: files, threads, and memory that is then used again
READER = "DALI, its webdataset reader"
WANTED = {READER: 0.9, "webdataset + Pillow": 2.2, "webdataset + OpenCV": 1.8}
"""The least the loader must reach of each; of several numbers of workers, of the best."""

Batches = Generator[Tensor, None, None]


def face(seed: int) -> bytes:
    """A smooth picture with camera noise: about as many bytes as an aligned face at quality 95."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + random.integers(-12, 12, smooth.shape)
    content = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue()


def ours(dataset: Dataset, options: argparse.Namespace, augmentation: Augmentation) -> Batches:
    """The loader as training uses it: plan, files, checksums, background thread."""
    plan = Plan(
        dataset.shard_sizes,
        micro_batches=4,
        micro_batch_size=options.batch_size,
        seed=0,
        shuffle_window=4,
    )
    loader = Loader(
        dataset,
        plan,
        range(plan.micro_batches),
        image_size=SIDE,
        augmentation=augmentation,
        device=options.device,
        threads=options.threads,
        quarantine={},
        bad_sample_budget=0,
    )
    try:
        for step in loader:
            yield from (batch.image for batch in step.batches)
    finally:
        loader.close()


def dali_fed(dataset: Dataset, options: argparse.Namespace) -> Batches:
    """The same graph, fed from bytes that lie in memory: what the loader could reach at best."""
    reader = ShardReader(dataset, max_open=SHARDS)
    contents = [reader.read(sample).content for sample in range(dataset.num_samples)]
    reader.close()
    decoder = Decoder(
        batch_size=options.batch_size,
        image_size=SIDE,
        augmentation=FLIP,
        resizes=False,
        device=options.device,
        threads=options.threads,
    )
    sample = np.arange(options.batch_size)
    parameters = FLIP.parameters(sample, sample)
    decoder.submit(contents[: len(sample)], parameters)
    for start in chain.from_iterable(repeat(range(0, len(contents) - len(sample), len(sample)))):
        decoder.submit(contents[start : start + len(sample)], parameters)
        yield decoder.collect()


def dali_reader(dataset: Dataset, options: argparse.Namespace) -> Batches:
    """DALI alone, with its own webdataset reader, shuffle buffer and torch iterator."""
    on_gpu = options.device != "cpu"
    pipeline = Pipeline(
        batch_size=options.batch_size,
        num_threads=options.threads,
        device_id=int(options.device.partition(":")[2] or 0) if on_gpu else None,
        seed=0,
    )
    with pipeline:
        content: Any = fn.readers.webdataset(
            paths=tars(dataset),
            index_paths=[tar.removesuffix("tar") + "idx" for tar in tars(dataset)],
            ext=["jpg"],
            random_shuffle=True,
        )
        image: Any = fn.decoders.image(
            content, device="mixed" if on_gpu else "cpu", output_type=DALIImageType.RGB
        )
        image = fn.crop_mirror_normalize(
            image,
            mirror=fn.random.coin_flip(),
            mean=127.5,
            std=127.5,
            dtype=DALIDataType.FLOAT,
            output_layout="CHW",
        )
        pipeline.set_outputs(image)
    for (batch,) in DALIGenericIterator([pipeline], ["image"], size=-1):
        yield batch["image"]


def webdataset(
    dataset: Dataset,
    options: argparse.Namespace,
    decode: Callable[[bytes], np.ndarray],
    *,
    workers: int,
) -> Batches:
    """webdataset with a shuffle buffer, in this process or in `workers` others."""
    random = np.random.default_rng(0)

    def pixels(sample: tuple[bytes]) -> tuple[Tensor]:
        image = decode(sample[0]).transpose(2, 0, 1)
        if random.random() < 0.5:
            image = image[:, :, ::-1]
        return (torch.from_numpy((image.astype(np.float32) - 127.5) / 127.5),)

    samples: Any = WebDataset(tars(dataset), shardshuffle=SHARDS)
    batches = samples.repeat().shuffle(1000).to_tuple("jpg").map(pixels)
    batches = batches.batched(options.batch_size, partial=False)
    for (image,) in WebLoader(batches, batch_size=None, num_workers=workers):
        yield image


def by_pillow(content: bytes) -> np.ndarray:
    """RGB, height x width x 3."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def by_opencv(content: bytes) -> np.ndarray:
    """RGB, height x width x 3."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def tars(dataset: Dataset) -> list[str]:
    """The paths of the dataset's tars."""
    return [str(dataset.path / f"{shard.name}.tar") for shard in dataset.shards]


def measure(make: Callable[[], Batches], images: int) -> tuple[float, float]:
    """Images a second, and microseconds of this process's CPU time an image."""
    batches = make()
    for _ in range(WARM_UP):
        next(batches)
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    while done < images:
        done += len(next(batches))
    rate = done / (time.perf_counter() - start)
    cpu_us = (time.process_time() - cpu) / done * 1e6
    batches.close()
    return rate, cpu_us


def made_up(options: argparse.Namespace, folder: Path) -> Dataset:
    """The faces that all candidates read."""
    contents = [face(seed) for seed in range(options.images)]
    size = sum(map(len, contents))
    return dataset_of(
        folder / "faces",
        contents,
        [0] * len(contents),
        image_size=(SIDE, SIDE),
        shard_bytes=(size + 2048 * len(contents)) // SHARDS,
    )


def loaders(dataset: Dataset, options: argparse.Namespace) -> dict[str, Callable[[], Batches]]:
    """The candidates by name, ours first."""
    candidates: dict[str, Callable[[], Batches]] = {
        "facescale": partial(ours, dataset, options, FLIP),
        "DALI, the same graph fed from memory": partial(dali_fed, dataset, options),
        READER: partial(dali_reader, dataset, options),
    }
    for name, decode in (("Pillow", by_pillow), ("OpenCV", by_opencv)):
        for workers in (0, 2):
            candidates[f"webdataset + {name}, {workers} workers"] = partial(
                webdataset, dataset, options, decode, workers=workers
            )
    return candidates


def compare(
    candidates: Mapping[str, Callable[[], Batches]], options: argparse.Namespace
) -> list[dict[str, str | float]]:
    """One row a candidate: medians over the rounds, and of how the first compares with it."""
    figures = interleaved(
        {name: partial(measure, make, 2 * options.images) for name, make in candidates.items()},
        options.repeats,
    )
    rates = {name: [rate for rate, _ in rounds] for name, rounds in figures.items()}
    first = next(iter(rates.values()))
    return [
        {
            "loader": name,
            "images/s": round(median(rates[name])),
            "slowest": round(min(rates[name])),
            "fastest": round(max(rates[name])),
            "the first over it": median(a / b for a, b in zip(first, rates[name], strict=True)),
            "CPU us/image": "in workers"
            if name.endswith("2 workers")
            else round(median(cpu for _, cpu in rounds)),
        }
        for name, rounds in figures.items()
    ]


def verdicts(rows: Sequence[Mapping[str, str | float]]) -> list[str]:
    """What was wanted of the loader, and whether it is so."""
    lines = []
    for name, wanted in WANTED.items():
        ratios = [float(r["the first over it"]) for r in rows if str(r["loader"]).startswith(name)]
        if ratios:
            verdict = "met" if min(ratios) >= wanted else "missed"
            lines.append(f"over {name}: {min(ratios):.3g}, wanted at least {wanted}: {verdict}")
    return lines


def run(
    name: str, make: Callable[[Dataset, argparse.Namespace], dict[str, Callable[[], Batches]]]
) -> None:
    """Compare the candidates that `make` gives, and print, or record as `name`, their table."""
    parser = argparse.ArgumentParser(description="Images a second of loaders, side by side.")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="write tests/benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)  # more would wait actively, beside the loaders' own
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(make(made_up(options, Path(folder)), options), options)
    if options.json:
        print(json.dumps({"options": vars(options), "rows": rows}, indent=1))
    else:
        for row in rows:
            print("  ".join(f"{key}: {value}" for key, value in row.items()))
        print(*verdicts(rows), sep="\n")
    if options.record:
        command = f"python -m tests.benchmarks.bench_{name} {' '.join(sys.argv[1:])}"
        notes = [
            f"{options.images} images of {SIDE} x {SIDE}, batches of {options.batch_size}, "
            f"{options.threads} threads, medians of {options.repeats} rounds in turn",
            *verdicts(rows),
        ]
        print(record(name, rows, command=command, notes=notes), file=sys.stderr)


if __name__ == "__main__":
    run("loader", loaders)
