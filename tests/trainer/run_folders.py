"""Run folders as a training run would leave them, made without training."""

from pathlib import Path
from typing import Any

from trainer.metrics import Metrics

START = 1_800_000_000.0


def step_record(step: int, **changes: Any) -> dict[str, Any]:
    """A history line with every field of the contract."""
    record = {
        "step": step,
        "epoch": step / 50,
        "samples_seen": step * 64,
        "loss": 10.0 / step,
        "learning_rate": 0.1,
        "target_cosine": 0.5,
        "target_cosine_p05": 0.3,
        "hardest_negative_cosine": 0.25,
        "top1": 0.75,
        "negative_mass": 0.4,
        "conflict_share": 1e-4,
        "margin": {"t": 0.125},
        "used_maximum": False,
        "gradient_norm": 2.0,
        "samples": f"{step:016x}",
        "seconds": {
            "data_wait": 0.125,
            "forward": 0.25,
            "head": 0.125,
            "backward": 0.25,
            "optimizer": 0.125,
            "total": 1.0,
        },
        "images_per_second": 64.0,
        "time": START + step,
        "attempt": 1,
    }
    return record | changes


def evaluation_record(step: int, **changes: Any) -> dict[str, Any]:
    """An evaluations line with every field of the contract."""
    record = {
        "step": step,
        "set": "lfw",
        "accuracy": 0.875,
        "accuracy_std": 0.0125,
        "threshold": 0.3,
        "tar": {"1e-1": 0.75, "1e-2": 0.5, "1e-3": 0.25},
        "auc": 0.9,
        "roc": {"far": [0.0, 0.001, 0.01, 0.1, 1.0], "tar": [0.1, 0.25, 0.5, 0.75, 1.0]},
        "num_pairs": 600,
        "interval": [0.85, 0.9],
        "time": START + step,
    }
    return record | changes


def publish(folder: Path, *, steps: int, rank: int = 0, world_size: int = 1) -> Metrics:
    """The metrics of one rank after `steps` steps, an evaluation, a checkpoint and bad samples."""
    metrics = Metrics(
        folder, run="run-a", rank=rank, world_size=world_size, attempt=1, planned_steps=100
    )
    metrics.step([step_record(step) for step in range(1, steps + 1)])
    metrics.evaluation(evaluation_record(steps))
    metrics.centres(never_seen=0.01, lengths={"shortest": 0.5, "mean": 1.0, "longest": 2.0})
    metrics.checkpoint(seconds=0.5, size_bytes=4096)
    metrics.bad_samples({"decode": 2})
    return metrics
