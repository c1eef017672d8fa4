"""Where a step's time goes: data wait, forward, head, backward, optimizer, and the loop's own rest.

Trains made-up faces for some steps with the real loop in one process and takes medians over the
steps of its history. The loop's overhead is what the five phases leave of the whole.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.synthetic import synthesize
from tests.benchmarks.record import record
from trainer import config, run_folder
from trainer.launch import run_local
from trainer.metrics import read_lines

PHASES = ("data_wait", "forward", "head", "backward", "optimizer")


def measure(
    backbone: str, image_size: int, *, steps: int, threads: int, folder: Path
) -> dict[str, Any]:
    """One row: median milliseconds of each phase and the loop's share."""
    run = config.from_tree(
        {
            "name": f"{backbone.replace('_', '-')}-{image_size}",
            "runs": str(folder / "runs"),
            "steps": steps,
            "data": {"path": str(folder / "faces"), "image_size": image_size},
            "backbone": {"name": backbone},
            "batch": {"micro_batches": 2, "micro_batch_size": 32},
            "engine": {"precision": "bf16", "threads": threads},
            "every": {"log": 10, "save": steps},
        },
        source="bench_step",
    )
    kept = run_folder.prepare(run)
    run_local(run, kept)
    seconds = [line["seconds"] for line in read_lines(kept / "metrics" / "history.jsonl")]
    warm = seconds[len(seconds) // 5 :]
    phases = {name: statistics.median(s[name] for s in warm) * 1000 for name in PHASES}
    rest = statistics.median(s["total"] - sum(s[name] for name in PHASES) for s in warm)
    total = statistics.median(s["total"] for s in warm)
    return {
        "backbone": backbone,
        "px": image_size,
        "batch": run.batch.size,
        **{f"{name} ms": value for name, value in phases.items()},
        "total ms": total * 1000,
        "loop's own %": 100 * rest / total,
        "images/s": run.batch.size / total,
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="keep the figures in results/")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(folder / "faces", identities=50, images=8, size=112, processes=2)
        rows = [
            measure(backbone, size, steps=arguments.steps, threads=arguments.threads, folder=folder)
            for backbone, size in (("facenet_small", 64), ("mobilefacenet", 112))
        ]
    for row in rows:
        print(row)
    if arguments.record:
        record(
            "step",
            rows,
            command=f"python -m tests.benchmarks.bench_step --record --steps {arguments.steps}"
            f" --threads {arguments.threads}",
            notes=["one rank, bf16 autocast; medians over steps, the first fifth left out"],
        )


if __name__ == "__main__":
    main()
