"""Every number a run publishes, in one table: name, kind, unit, meaning, labels.

The exporter serves these series and no others; the Grafana dashboard is generated from this table
and the alert rules are tested against it. A label is one of a few short words, never an identity,
a file name, a path or an error's text, so the number of time series stays small at any size.
"""

import re
from dataclasses import dataclass
from typing import Literal

PREFIX = "facescale_"

PHASES = ("data_wait", "forward", "head", "backward", "optimizer", "other")
"""Where the seconds of a step go; `other` is what the five named parts leave of the whole."""

PARTS = ("backbone", "head")
"""The two halves of the model; either can refuse a step whose numbers are not finite."""

LABEL_VALUES: dict[str, re.Pattern[str]] = {
    "set": re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}"),
    "far": re.compile(r"1e-[1-9]"),
    "phase": re.compile("|".join(PHASES)),
    "cause": re.compile("|".join(PARTS)),
    "reason": re.compile(r"[a-z][a-z0-9_]{0,31}"),
    "quantity": re.compile(r"[a-z][a-z0-9_]{0,31}"),
}
"""What a label may hold; `run` and `rank` come from a snapshot's checked header."""

MAX_LABEL_VALUES = 16
"""Distinct values of one label in one series; Prometheus' advice is to stay below about ten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric as Prometheus sees it. Without the label `rank` it is rank 0's to publish."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: Literal["", "seconds", "bytes", "ratio", "images per second"]
    help: str
    labels: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """The name in Prometheus."""
        return PREFIX + self.name

    @property
    def per_rank(self) -> bool:
        """Whether every rank publishes its own value."""
        return "rank" in self.labels

    @property
    def own_labels(self) -> tuple[str, ...]:
        """The labels beside `run` and `rank`: the levels of nesting in a snapshot."""
        return tuple(label for label in self.labels if label not in ("run", "rank"))


_RUN = ("run",)
_RANK = ("run", "rank")


def _gauge(
    name: str,
    help: str,
    labels: tuple[str, ...] = _RUN,
    unit: Literal["", "ratio", "images per second"] = "",
) -> Series:
    return Series(name=name, kind="gauge", unit=unit or _unit(name), help=help, labels=labels)


def _counter(name: str, help: str, labels: tuple[str, ...] = _RUN) -> Series:
    return Series(name=name, kind="counter", unit=_unit(name), help=help, labels=labels)


def _unit(name: str) -> Literal["", "seconds", "bytes", "ratio"]:
    last = name.removesuffix("_total").rpartition("_")[2]
    return last if last in ("seconds", "bytes", "ratio") else ""


_HEAD: tuple[Series, ...] = (
    _gauge("target_cosine", "Mean cosine between a face and its own centre, newest step."),
    _gauge(
        "target_cosine_p05",
        "Cosine with the own centre that a twentieth of the faces stay below, newest step.",
    ),
    _gauge(
        "hardest_negative_cosine",
        "Mean cosine between a face and its nearest other centre, newest step.",
    ),
    _gauge("top1", "Share of faces nearest to their own centre, newest step.", unit="ratio"),
    _gauge(
        "negative_mass",
        "Mean probability that a face's softmax gives to all other centres, newest step.",
        unit="ratio",
    ),
    _gauge(
        "conflict_share",
        "Share of negative cosines above head.conflict_cosine, newest step; 0 without one.",
        unit="ratio",
    ),
)

HEAD_STATISTICS: tuple[str, ...] = tuple(series.name for series in _HEAD)
"""What the head tells of each step: its statistic, the history's field and the series alike."""

TABLE: tuple[Series, ...] = (
    # what is running
    _gauge("run_info", "Always 1; its label names the run."),
    _gauge("world_size", "Ranks of the running attempt."),
    _gauge("attempt", "Number of the running attempt; it grows by one with each restart."),
    _gauge("planned_steps", "Steps after which the run is done."),
    # progress
    _gauge("step", "Steps this rank has taken, those before a resume included.", _RANK),
    _gauge("epoch", "Passes over the training samples so far."),
    _counter(
        "samples_total", "Training samples seen by all ranks, those before a resume included."
    ),
    _gauge(
        "images_per_second",
        "Training images a second of all ranks, over the last interval.",
        unit="images per second",
    ),
    _gauge("start_timestamp_seconds", "When this rank's process began the attempt.", _RANK),
    _gauge("last_step_timestamp_seconds", "When this rank finished its newest step.", _RANK),
    _counter(
        "step_seconds_total", "Seconds spent in each part of a training step.", (*_RANK, "phase")
    ),
    # optimisation
    _gauge("loss", "Training loss of the newest step, the mean over the global batch."),
    _gauge("learning_rate", "Learning rate of the newest step."),
    _gauge("gradient_norm", "L2 norm of the backbone's gradient before clipping, newest step."),
    _counter(
        "skipped_steps_total",
        "Steps one part of the model did not take because its numbers "
        "were not finite, in this attempt.",
        ("run", "cause"),
    ),
    # the face head
    *_HEAD,
    _gauge(
        "margin",
        "What the margin measures and carries from step to step, newest step.",
        ("run", "quantity"),
    ),
    _counter(
        "maximum_steps_total",
        "Steps whose logits left the range of the constant shift, so that their maximum was "
        "taken, in this attempt.",
    ),
    _gauge(
        "never_seen_ratio",
        "Share of centres that were the nearest of their class to no face yet, newest evaluation.",
    ),
    _gauge("centre_length", "Length of the centres, newest evaluation.", ("run", "quantity")),
    # data
    _counter(
        "bad_samples_total",
        "Samples this rank found unusable and replaced, in this attempt.",
        (*_RANK, "reason"),
    ),
    # verification
    _gauge(
        "verification_accuracy_ratio",
        "Share of pairs judged rightly, newest evaluation.",
        ("run", "set"),
    ),
    _gauge(
        "verification_tar_ratio",
        "Share of same-person pairs accepted at a false-accept rate, newest evaluation.",
        ("run", "set", "far"),
    ),
    _gauge(
        "verification_last_timestamp_seconds", "When the newest evaluation ended.", ("run", "set")
    ),
    # checkpoints
    _counter("checkpoints_total", "Checkpoints tried, in this attempt."),
    _counter(
        "checkpoint_failures_total", "Checkpoints that could not be written, in this attempt."
    ),
    _gauge(
        "checkpoint_last_success_timestamp_seconds", "When the newest checkpoint was committed."
    ),
    _gauge("checkpoint_duration_seconds", "Seconds the newest checkpoint took."),
    _gauge("checkpoint_bytes", "Size of the newest checkpoint."),
    # the process
    _gauge("resident_memory_bytes", "Memory the rank's process holds.", _RANK),
    _gauge("device_memory_bytes", "Accelerator memory the rank's process holds.", _RANK),
    _gauge("snapshot_timestamp_seconds", "When this rank wrote the numbers shown here.", _RANK),
    # the exporter's own findings
    _gauge("rank_up", "1 while the rank's process lives, else 0.", _RANK),
    _gauge("snapshots_unreadable", "Snapshot files of this run folder that were refused."),
)

BY_NAME: dict[str, Series] = {series.name: series for series in TABLE}

FROM_EXPORTER = ("rank_up", "snapshots_unreadable", "snapshot_timestamp_seconds")
"""Series that the exporter derives; a snapshot cannot set them."""
