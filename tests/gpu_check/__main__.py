"""`make gpu-check`: kernels against float64, then speed, memory and size, then tiles.

    python -m tests.gpu_check [--minutes 28] [--dry-run]

What matters most comes first, and every figure is written down as soon as it is there. A dry run
goes the same way on a CPU, at sizes of no interest.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sharded_fc.kernels.configurations import HALF_TILES, Tile
from tests.benchmarks.record import RESULTS, Cell
from tests.gpu_check.results import Results

DIM = 512
NO_TIME = "no time left"
# Of each element: the first visit reads the row, the second reads and writes row and momentum.
TOUCHES = 5
VARIANTS: dict[str, dict[str, Any]] = {
    "fused": {"kernels": "fused"},
    "elementwise": {"kernels": "elementwise"},
    "torch": {"kernels": "torch"},
    "fused, bfloat16 rows and state": {
        "kernels": "fused",
        "dtype": "bfloat16",
        "state_dtype": "bfloat16",
    },
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large, on what, and for how long."""

    device: str
    deadline: float
    classes: tuple[int, ...] = (1_000_000, 125_000, 10_000_000)
    batches: tuple[int, ...] = (1024, 8192, 256)
    dim: int = DIM
    variants: tuple[str, ...] = tuple(VARIANTS)
    dense: tuple[str, ...] = ("dense", "dense, compiled")
    largest_of: tuple[str, ...] = ("fused", "fused, bfloat16 rows and state")
    most_classes: int = 60_000_000
    steps_of_bisection: int = 5
    timeout_s: float = 150.0
    tests: tuple[str, ...] = ("-m", "gpu", "tests")
    architecture: int = 90


def main() -> None:
    """Run all parts in order, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=28.0, help="end after so long")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at tiny sizes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    plan = Plan(device="cuda", deadline=deadline)
    if options.dry_run:
        plan = replace(
            plan,
            device="cpu",
            classes=(300,),
            batches=(8,),
            dim=16,
            variants=("fused",),
            dense=("dense",),
            largest_of=("fused",),
            most_classes=1200,
            steps_of_bisection=1,
            tests=("tests/sharded_fc/test_partition.py",),
        )
    else:
        major, _ = torch.cuda.get_device_capability()
        plan = replace(plan, architecture=90 if major == 9 else 80)
    results = Results(options.results)
    failed = parity(plan, results)
    claims(plan, results)
    largest(plan, results)
    if plan.device != "cpu":
        tiles(plan, results)
    print(f"\n{results.path}")
    sys.exit(failed)


def parity(plan: Plan, results: Results) -> int:
    """Every test that needs a card; the exit status of pytest."""
    results.section("Parity", "Tests marked gpu: kernels against float64, the head, a short run.")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *plan.tests]
    limit_s = 0.4 * (plan.deadline - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        results.row({"tests": f"not done after {limit_s:.0f} s"})
        return 1
    lines = done.stdout.strip().splitlines() or ["no output"]
    for line in [line for line in lines if line.startswith("FAILED")]:
        results.row({"failed": line.removeprefix("FAILED ")})
    results.row({"tests": lines[-1].strip("= ")})
    return done.returncode


def claims(plan: Plan, results: Results) -> None:
    """Steps of the head beside dense ones, and beside what the card can do at these shapes."""
    note = (
        f"A full-softmax step (CosFace, {plan.dim} columns, SGD), median. Best is what "
        "8 B C D operations take at the library's measured rate for these products, and the rows "
        f"and their momentum, touched {TOUCHES} times, at the measured rate of a copy."
    )
    results.section("Steps", note)
    for classes in plan.classes:
        for batch in plan.batches:
            size = {"classes": classes, "batch": batch, "dim": plan.dim}
            rates = measure(plan, "rates", **size)
            results.row({**size, "step": "rates", **rates})
            for name in plan.variants:
                row = measure(plan, "head", **size, **VARIANTS[name])
                if "ms" in row and "copy GB/s" in rates:
                    item_bytes = 2 if "dtype" in VARIANTS[name] else 4
                    row["of best"] = best_ms(rates, item_bytes, **size) / float(row["ms"])
                results.row({**size, "step": name, **row})
            for name in plan.dense:
                row = measure(plan, "dense", **size, compiled=name != "dense")
                results.row({**size, "step": name, **row})
                if "error" in row:
                    break  # what does not fit is not worth compiling


def best_ms(
    rates: dict[str, Cell], item_bytes: int, *, classes: int, batch: int, dim: int
) -> float:
    """Milliseconds of a step that does nothing but its four products and moves its rows."""
    operations = 8.0 * batch * classes * dim
    moved = float(TOUCHES * item_bytes) * classes * dim
    return operations / float(rates["TFLOP/s"]) / 1e9 + moved / float(rates["copy GB/s"]) / 1e6


def largest(plan: Plan, results: Results) -> None:
    """How many identities one card holds, by bisection: a few steps of the head at each size."""
    batch = max(batch for batch in plan.batches if batch <= 1024)
    results.section("Identities on one card", f"The most for which a step of batch {batch} ran.")
    for name in plan.largest_of:
        fits, fails = 0, plan.most_classes
        for _ in range(plan.steps_of_bisection):
            middle = (fits + fails) // 2
            size = {"classes": middle, "batch": batch, "dim": plan.dim}
            row = measure(plan, "head", **size, **VARIANTS[name])
            if row.get("error") == NO_TIME:
                break
            fits, fails = (fits, middle) if "error" in row else (middle, fails)
            results.row({"head": name, **size, **row})
        results.row({"head": name, "fits": fits, "fails": fails})


def tiles(plan: Plan, results: Results) -> None:
    """TFLOP/s of the fused passes tile by tile, those of the table first."""
    results.section("Tiles", "TFLOP/s of the two fused passes, and of the library's product.")
    listed = HALF_TILES[plan.architecture]
    others = [
        Tile(rows=rows, samples=samples, depth=depth, warps=warps, stages=stages, parts=parts)
        for rows, samples, parts in ((128, 256, 4), (128, 128, 2), (128, 128, 1), (64, 256, 2))
        for warps in (8, 4)
        for depth, stages in ((64, 3), (64, 4), (32, 5), (128, 2))
    ]
    for batch in plan.batches:
        for tile in dict.fromkeys([*listed, *others]):
            shape = asdict(tile)
            row = measure(plan, "tile", batch=batch, dim=plan.dim, shape=shape)
            results.row({"batch": batch, **{key: str(x) for key, x in shape.items()}, **row})


def measure(plan: Plan, kind: str, **arguments: Any) -> dict[str, Cell]:
    """`measure.py` in a process; the reason where it gave no figures."""
    left_s = plan.deadline - time.monotonic()
    if left_s < 5:
        return {"error": NO_TIME}
    arguments = {"device": plan.device, **arguments}
    command = [sys.executable, "-m", "tests.gpu_check.measure", kind, json.dumps(arguments)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=min(plan.timeout_s, left_s),
        )
    except subprocess.TimeoutExpired:
        return {"error": "took too long"}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return {"error": last.replace("|", "/")[:100]}


if __name__ == "__main__":
    main()
