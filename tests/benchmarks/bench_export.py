"""Exported networks: size, nearness to torch, and images a second of onnxruntime beside torch.

    python -m tests.benchmarks.bench_export [--names "mobilefacenet;..." | --all] [--size 112]
        [--batch 32] [--repeats 5] [--threads 2] [--precisions fp32 fp16 int8] [--weights FILE]
        [--faces DATASET] [--record]

Each network is exported with first weights (or those of --weights, for one name), its BatchNorm
statistics taken from noise, at each precision. Torch is eager, float32, in evaluation, in the
faster of its memory formats; all candidates of a network take turns, medians. `--all` is every row
of the table of backbones at its own size: parity alone, of a few images. int8 is calibrated with
--faces, or with noise.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import torch
from torch import Tensor, nn

from data_pipeline.index import Dataset
from tests.benchmarks.record import Cell, interleaved, record
from trainer import backbones
from trainer.backbones.replace import Rule
from trainer.backbones.table import BACKBONES
from trainer.export.export import Precision, export
from trainer.export.images import noise
from trainer.export.parity import Session
from trainer.export.source import Source, from_name
from trainer.layers.batch_norm import apply_statistics, recording

DRCONV = Rule(what="pointwise", stages=(2, 3), kind="drconv", options={"regions": 8})
TVCONV = Rule(what="depthwise", stages=(3, 4), kind="tvconv", options={"hidden": 16, "layers": 1})
NETWORKS: dict[str, tuple[str, list[Rule]]] = {
    "mobilefacenet": ("mobilefacenet", []),
    "mobilefacenet, DRConv in stages 2 and 3": ("mobilefacenet", [DRCONV]),
    "mobilefacenet, TVConv in stages 3 and 4": ("mobilefacenet", [TVCONV]),
    "vargfacenet": ("vargfacenet", []),
    "mbf": ("mbf", []),
    "iresnet50": ("iresnet50", []),
    "vit_t": ("vit_t", []),
}
STATISTICS_FROM = 8  # images
FORMATS = {"channels": torch.contiguous_format, "last": torch.channels_last}


def main() -> None:
    """Measure, and record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--names", default=";".join(NETWORKS), help="split by semicolons")
    chosen.add_argument("--all", action="store_true")
    for name, size in {"size": 112, "batch": 32, "repeats": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--precisions", nargs="+", default=get_args(Precision))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faces = None if options.faces is None else Dataset.open(options.faces)
    rows: list[dict[str, Cell]] = []
    for name in list(BACKBONES) if options.all else options.names.split(";"):
        with tempfile.TemporaryDirectory(prefix="facescale-") as folder:
            made = source(name, None if options.all else options.size, options.weights)
            files = {
                precision: Path(folder) / f"{precision}.onnx" for precision in options.precisions
            }
            said = {
                precision: export(
                    made, file, precision=precision, dataset=faces, threads=options.threads
                )
                for precision, file in files.items()
            }
            speeds = {} if options.all else measure(made, files, options)
        for precision in options.precisions:
            rows.append(
                {
                    "network": name,
                    "precision": precision,
                    "file MB": said[precision]["bytes"] / 1e6,
                    "nodes": said[precision]["nodes"],
                    **{
                        f"{of}: worst cosine distance": f"{found['worst']:.1e}"
                        for of, found in said[precision]["cosine_distance"].items()
                    },
                    **(speeds.get(precision, {})),
                }
            )
            print(rows[-1], flush=True)
    if options.record:
        shown = "python -m tests.benchmarks.bench_export" + (" --all" if options.all else "")
        shown += f" --size {options.size} --batch {options.batch} --repeats {options.repeats}"
        shown += f" --threads {options.threads}"
        suffix = "_all" if options.all else ""
        print(
            record(f"export{suffix}", rows, command=shown, notes=[(__doc__ or "").split("\n")[0]])
        )


def source(name: str, size: int | None, weights: Path | None) -> Source:
    """A network of `NETWORKS` or the table, with statistics as if it had seen images."""
    backbone, rules = NETWORKS.get(name, (name, []))
    plain = from_name(backbone, weights=weights, image_size=size)
    if weights is not None:
        return plain
    torch.manual_seed(0)
    network = plain.network
    if rules:
        network = backbones.build(backbone, image_size=plain.image_size, rules=rules)
    with torch.no_grad(), recording(network.train()) as records:
        network(noise(STATISTICS_FROM, plain.image_size))
    for layer in records.layers.values():
        layer.momentum = 1.0
    apply_statistics(records, micro_batches=range(1), total=1, group=None)
    return Source(
        network=network.eval(),
        model=plain.model,
        embedding_dim=plain.embedding_dim,
        image_size=plain.image_size,
        trained=False,
        facts={},
    )


def measure(
    made: Source, files: dict[str, Path], options: argparse.Namespace
) -> dict[str, dict[str, Cell]]:
    """Images a second of each file, and of torch, at the batch and at one image."""
    found: dict[str, dict[str, Cell]] = {precision: {} for precision in files}
    for batch in (options.batch, 1):
        image = noise(batch, made.image_size)
        runs: dict[str, Callable[[], float]] = {
            precision: partial(rate, Session(file, threads=options.threads), image)
            for precision, file in files.items()
        }
        for name, form in FORMATS.items():
            runs[name] = partial(torch_rate, made.network, image, form)
        for run in runs.values():
            run()
        speeds = {name: median(all_) for name, all_ in interleaved(runs, options.repeats).items()}
        torch_speed = max(speeds[name] for name in FORMATS)
        for precision in files:
            found[precision] |= {
                f"torch, batch {batch}, images/s": torch_speed,
                f"onnxruntime, batch {batch}, images/s": speeds[precision],
                f"batch {batch}: of torch": speeds[precision] / torch_speed,
            }
    return found


def rate(run: Callable[[Tensor], object], image: Tensor) -> float:
    """Images a second of one call."""
    began = time.perf_counter()
    run(image)
    return len(image) / (time.perf_counter() - began)


def torch_rate(
    network: nn.Module,
    image: Tensor,
    form: torch.memory_format,
) -> float:
    """The same of the network itself, in a memory format."""
    for value in (*network.parameters(), *network.buffers()):
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=form)
    shaped = image.contiguous(memory_format=form)
    with torch.inference_mode():
        return rate(network, shaped)


if __name__ == "__main__":
    main()
