"""What a check measures, at which sizes, and each measurement in a process of its own."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.record import Cell

DIM = 512
NO_TIME = "no time left"
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
TWO_BYTES = "fused, bfloat16 rows and state"


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
    largest_of: tuple[str, ...] = ("fused", TWO_BYTES)
    most_classes: int = 60_000_000
    steps_of_bisection: int = 5
    many_classes: tuple[int, ...] = (10_000_000, 30_000_000)
    rates: tuple[float | None, ...] = (None, 0.1, 0.01)
    layer_batch: int = 32
    drconv_sizes: tuple[tuple[int, int], ...] = ((56, 64), (28, 128), (14, 256), (7, 512))
    tvconv_sides: tuple[int, ...] = (28, 14)
    tvconv_channels: tuple[int, ...] = (64, 128, 256, 512)
    layer_dtypes: tuple[str, ...] = ("float32", "float16")
    networks: tuple[str, ...] | None = None
    """None: all of bench_backbones."""
    network_batch: int = 256
    image_size: int = 112
    compiled: tuple[bool, ...] = (False, True)
    timeout_s: float = 150.0
    tests: tuple[str, ...] = ("-m", "gpu", "tests")
    architecture: int = 90


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
