"""Images a second of the loader with each preset of augmentations, and the CPU time of an image.

    python -m tests.benchmarks.bench_loader_presets [--record] [--json] [--device cuda:0]

The images and the way of measuring are those of `bench_loader`.
"""

import argparse
from collections.abc import Callable
from functools import partial

from data_pipeline.index import Dataset
from data_pipeline.presets import PRESETS
from tests.benchmarks.bench_loader import Batches, ours, run


def presets(dataset: Dataset, options: argparse.Namespace) -> dict[str, Callable[[], Batches]]:
    """The loader once for each preset; the first changes nothing."""
    return {
        name: partial(ours, dataset, options, augmentation)
        for name, augmentation in PRESETS.items()
    }


if __name__ == "__main__":
    run("loader_presets", presets)
