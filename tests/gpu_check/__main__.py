"""`make gpu-check`: kernels against float64, then heads, layers and networks, then tiles.

    python -m tests.gpu_check [--minutes 28] [--dry-run]

What matters most comes first, and every figure is written down as soon as it is there. A dry run
goes the same way on a CPU, at sizes of no interest.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.record import RESULTS
from tests.gpu_check import heads, networks
from tests.gpu_check.plan import Plan
from tests.gpu_check.results import Results


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
            many_classes=(400,),
            rates=(None, 0.1),
            layer_batch=2,
            drconv_sizes=((6, 8),),
            tvconv_sides=(6,),
            tvconv_channels=(8,),
            layer_dtypes=("float32",),
            networks=("mobilefacenet",),
            network_batch=2,
            image_size=32,
            compiled=(False,),
            tests=("tests/sharded_fc/test_partition.py",),
        )
    else:
        major, _ = torch.cuda.get_device_capability()
        plan = replace(plan, architecture=90 if major == 9 else 80)
    results = Results(options.results)
    failed = parity(plan, results)
    heads.claims(plan, results)
    heads.largest(plan, results)
    heads.millions(plan, results)
    networks.layers(plan, results)
    networks.whole(plan, results)
    if plan.device != "cpu":
        heads.tiles(plan, results)
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


if __name__ == "__main__":
    main()
