"""Plain, DRConv- and TVConv-MobileFaceNet trained on faces: accuracy on people never seen.

    python -m tests.benchmarks.bench_trained [--record] [--folder runs/trained]
        [--lfw3d TRAIN PAIRS] [--identities 1000] [--images 16] [--unseen 300] [--pairs 6000]
        [--steps 500] [--batch 64] [--threads 1]

Three seeds, on faces of `facescale data synth` and on those of LFW3D (packed: people with two or
more images, and the 590 pairs), at 56 px, through `trainer` as `facescale train` runs it. The
numbers below were fixed before the first run that counts. Everything is kept in the folder, and a
line of each finished run beside the results: what was stopped goes on from its last checkpoint.

"Equal" means that 95 % intervals overlap; they are Student's, of the mean over seeds.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from data_pipeline.pack import pack
from data_pipeline.pairs import pack_drawn_pairs
from data_pipeline.synthetic import SyntheticSource
from tests.benchmarks.bench_toy_sampling import SEEDS, STUDENT
from tests.benchmarks.heads import parser, show
from tests.benchmarks.record import RESULTS, Cell, commit
from trainer import build, config, run_folder
from trainer.backbones.count import count
from trainer.launch import run_local
from trainer.metrics import read_lines

SIZE = 56
MARGIN, SCALE, LEARNING_RATE, WEIGHT_DECAY = 0.2, 32, 0.05, 5e-4  # as the recipes for LFW3D
WARMUP_STEPS = 50
MICRO_BATCH = 32
FIRST_UNSEEN = 1_000_000

NETWORKS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    # Half the regions of the paper's, in the one stage whose maps are large: 5 % more arithmetic.
    "DRConv": [
        {"what": "pointwise", "stages": [2], "with": {"kind": "drconv", "regions": 4}},
    ],
    # No more arithmetic an image: the kernels of the deep stages are made once a step.
    "TVConv": [
        {"what": "depthwise", "stages": [3, 4], "with": {"kind": "tvconv", "hidden": 16}},
    ],
}


@dataclass(frozen=True, kw_only=True)
class Faces:
    """People to train on, and pairs of others."""

    name: str
    people: Path
    pairs: Path


def main() -> None:
    """Draw, train and verify what is missing; the table."""
    flags = parser(
        __doc__, identities=1_000, images=16, unseen=300, pairs=6_000, steps=500, batch=64
    )
    flags.set_defaults(threads=1)
    flags.add_argument("--folder", type=Path, default=Path("runs/trained"))
    flags.add_argument("--lfw3d", type=Path, nargs=2, metavar=("TRAIN", "PAIRS"))
    flags.add_argument("--runs", type=Path, default=RESULTS / "trained_runs.jsonl")
    options = flags.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sets = [
        drawn(
            options.folder,
            **{n: getattr(options, n) for n in ("identities", "images")},
            unseen=options.unseen,
            pairs=options.pairs,
        )
    ]
    if options.lfw3d:
        train, pairs = options.lfw3d
        sets.append(Faces(name="LFW3D", people=train.resolve(), pairs=pairs.resolve()))
    done = done_runs(options.runs, options.steps, options.batch)
    for seed in SEEDS:
        for faces in sets:
            for network in NETWORKS:
                if (faces.name, network, seed) in done:
                    continue
                found = trained(
                    network,
                    faces,
                    options.folder,
                    seed=seed,
                    steps=options.steps,
                    batch=options.batch,
                )
                line = {"faces": faces.name, "network": network, "seed": seed, **found}
                line |= {"steps": options.steps, "batch": options.batch, "commit": commit()}
                with options.runs.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                done[faces.name, network, seed] = line
                print(line, flush=True)
    notes = [f"{SIZE} px, {options.steps} steps of {options.batch}, seeds {SEEDS}"]
    notes.append(f"synthetic: {options.identities} people, {options.images} images each")
    notes.append(f"CosFace {MARGIN}, scale {SCALE}, SGD {LEARNING_RATE}, polynomial schedule")
    show("trained", table(done), notes, options)


def drawn(folder: Path, *, identities: int, images: int, unseen: int, pairs: int) -> Faces:
    """Made-up people and pairs of others, packed once."""
    people = SyntheticSource(identities=identities, images=images, size=SIZE, seed=0)
    others = SyntheticSource(
        identities=unseen, images=images, size=SIZE, seed=0, first_identity=FIRST_UNSEEN
    )
    faces = Faces(name="synthetic", people=folder / "people", pairs=folder / "pairs")
    if not faces.people.exists():
        pack(people, faces.people, seed=0, show_progress=True)
    if not faces.pairs.exists():
        pack_drawn_pairs(others, faces.pairs, num_pairs=pairs, seed=0)
    return faces


def done_runs(path: Path, steps: int, batch: int) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What is in the file already, of runs as long as these."""
    lines = list(read_lines(path)) if path.exists() else []
    return {
        (line["faces"], line["network"], line["seed"]): line
        for line in lines
        if (line["steps"], line["batch"]) == (steps, batch)
    }


def trained(
    network: str, faces: Faces, folder: Path, *, seed: int, steps: int, batch: int
) -> dict[str, float]:
    """Accuracy at a run's end; the run goes on from where it is."""
    run = config.from_tree(
        {
            "name": f"{faces.name}-{network}-{seed}".lower(),
            "runs": str(folder.resolve() / "runs"),
            "steps": steps,
            "seed": seed,
            "data": {
                "path": str(faces.people),
                "image_size": SIZE,
                "augment": {"flip": 0.5, "brightness": 0.2, "contrast": 0.2, "crop": 0.15},
            },
            "backbone": {"name": "mobilefacenet", "replace": NETWORKS[network]},
            "head": {"margin": {"name": "cosface", "margin": MARGIN}, "scale": SCALE},
            "optimizer": {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            "schedule": {"name": "polynomial", "warmup_steps": min(WARMUP_STEPS, steps // 2)},
            "batch": {"micro_batches": batch // MICRO_BATCH, "micro_batch_size": MICRO_BATCH},
            "every": {"log": 25, "save": 50},
            "checkpoint": {"keep": 1},
            "verify": [{"name": "unseen", "path": str(faces.pairs)}],
        },
        source="bench_trained",
    )
    evaluations = run.folder / "metrics" / "evaluations.jsonl"
    began = time.perf_counter()
    if not evaluations.exists():
        run_local(run, run_folder.prepare(run))
    last = list(read_lines(evaluations))[-1]
    history = list(read_lines(run.folder / "metrics" / "history.jsonl"))
    counted = count(build.network(run), (SIZE, SIZE))
    return {
        "accuracy": last["accuracy"],
        "tar": last["tar"]["1e-2"],
        "loss": history[-1]["loss"],
        "multiply_adds": counted["total"].multiply_adds,
        "parameters": counted["total"].parameters,
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(done: Mapping[tuple[str, str, int], dict[str, Any]]) -> list[dict[str, Cell]]:
    """For each network on each set its mean over seeds, and whether it equals the plain one."""
    rows: list[dict[str, Cell]] = []
    for faces in dict.fromkeys(name for name, _, _ in done):
        plain = _interval(_accuracies(done, faces, "plain"))
        for network in NETWORKS:
            found = _accuracies(done, faces, network)
            middle, half = _interval(found)
            one = next(line for (f, n, _), line in done.items() if (f, n) == (faces, network))
            rows.append(
                {
                    "faces": faces,
                    "network": network,
                    "accuracy, %": 100 * middle,
                    "95 %": f"{100 * (middle - half):.2f} to {100 * (middle + half):.2f}",
                    "seeds": ", ".join(f"{100 * each:.2f}" for each in found),
                    "equals plain": "yes" if abs(middle - plain[0]) <= half + plain[1] else "no",
                    "multiply-adds": one["multiply_adds"],
                    "parameters": one["parameters"],
                }
            )
    return rows


def _accuracies(
    done: Mapping[tuple[str, str, int], dict[str, Any]], faces: str, network: str
) -> list[float]:
    return [done[faces, network, seed]["accuracy"] for seed in SEEDS]


def _interval(found: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its interval."""
    return mean(found), STUDENT * stdev(found) / len(found) ** 0.5


if __name__ == "__main__":
    main()
