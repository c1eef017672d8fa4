"""The numbers of a run on disk: a snapshot per rank, and the run's history.

Each rank replaces one small JSON file with its newest numbers; the node's exporter serves those to
Prometheus, so a scrape never touches a training process. Rank 0 also appends one line a step to
`history.jsonl` and one line an evaluation to `evaluations.jsonl`, which the report is drawn from.
Nothing here opens a socket or needs torch.
"""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.process import process_mark, resident_memory_bytes
from trainer.run_folder import write_atomically
from trainer.series import (
    HEAD_STATISTICS,
    LABEL_VALUES,
    MAX_LABEL_VALUES,
    PARTS,
    PHASES,
    TABLE,
)
from trainer.snapshot import FORMAT, dump, read_snapshot, snapshot_path

_log = logging.getLogger(__name__)

HISTORY = "metrics/history.jsonl"
EVALUATIONS = "metrics/evaluations.jsonl"

_COPIED = ("epoch", "loss", "learning_rate", "gradient_norm", *HEAD_STATISTICS, "margin")
"""Fields of a step's record that are series of the same name."""

_KEPT_OVER_RESTARTS = tuple(
    series.name
    for series in TABLE
    if series.kind == "gauge"
    and series.name.startswith(("verification_", "checkpoint_", "centre_", "never_seen_"))
)


class Metrics:
    """Publishes one rank's numbers into a run folder.

    Every rank makes one, with the same arguments but `rank`; only rank 0 writes the shared files.
    A process that died leaves its last snapshot behind, which is how its death is seen. A full disk
    does not stop the training: it is logged, and the lines are written when there is room again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run: str,
        rank: int,
        world_size: int,
        attempt: int,
        planned_steps: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        (folder / "metrics").mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = snapshot_path(folder, rank=rank)
        self._rank = rank
        self._clock = clock
        self._written = clock()
        self._lines: dict[Path, list[str]] = {folder / HISTORY: [], folder / EVALUATIONS: []}
        self._failing = False
        self._header = {
            "format": FORMAT,
            "run": run,
            "rank": rank,
            "world_size": world_size,
            "attempt": attempt,
            "node": socket.gethostname(),
            "process": process_mark(os.getpid()),
        }
        self._values: dict[str, Any] = {
            "start_timestamp_seconds": self._written,
            "step_seconds_total": dict.fromkeys(PHASES, 0.0),
            "bad_samples_total": {},
        }
        if rank == 0:
            self._values |= self._kept() | {
                "run_info": 1,
                "world_size": world_size,
                "attempt": attempt,
                "skipped_steps_total": dict.fromkeys(PARTS, 0),
                "maximum_steps_total": 0,
                "checkpoints_total": 0,
                "checkpoint_failures_total": 0,
            }
            if planned_steps is not None:
                self._values["planned_steps"] = planned_steps
        self._publish()

    def step(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Publish the steps taken since the last call, oldest first.

        A record has the fields of a history line; besides them `skipped` may list the parts
        (`backbone`, `head`) that did not take the step, and `device_memory_bytes` may be given.
        """
        if not records:
            return
        if self._rank == 0:
            self._lines[self._folder / HISTORY] += map(dump, records)
        seconds = self._values["step_seconds_total"]
        for record in records:
            parts = record["seconds"]
            named = {phase: float(parts[phase]) for phase in PHASES if phase in parts}
            named.setdefault("other", max(0.0, float(parts["total"]) - sum(named.values())))
            for phase, value in named.items():
                seconds[phase] += value
        newest = records[-1]
        self._values["step"] = newest["step"]
        self._values["last_step_timestamp_seconds"] = newest["time"]
        if "device_memory_bytes" in newest:
            self._values["device_memory_bytes"] = newest["device_memory_bytes"]
        if self._rank == 0:
            self._step_of_run(records, newest)
        self._publish()

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Publish one evaluation (the fields of a line of evaluations.jsonl)."""
        if self._rank != 0:
            return
        self._lines[self._folder / EVALUATIONS].append(dump(record))
        name = record["set"]
        tar = {far: value for far, value in record["tar"].items() if value is not None}
        for series, value in (
            ("verification_accuracy_ratio", record["accuracy"]),
            ("verification_tar_ratio", tar),
            ("verification_last_timestamp_seconds", record["time"]),
        ):
            self._values.setdefault(series, {})[name] = value
        self._publish()

    def centres(self, *, never_seen: float, lengths: Mapping[str, float]) -> None:
        """Publish figures of all ranks' centres; `lengths` are named shortest, mean, longest."""
        if self._rank == 0:
            self._values |= {"never_seen_ratio": never_seen, "centre_length": dict(lengths)}
            self._publish()

    def checkpoint(self, *, seconds: float, size_bytes: int) -> None:
        """Publish that a checkpoint was committed."""
        if self._rank == 0:
            self._values["checkpoints_total"] += 1
            self._values["checkpoint_last_success_timestamp_seconds"] = self._clock()
            self._values["checkpoint_duration_seconds"] = seconds
            self._values["checkpoint_bytes"] = size_bytes
            self._publish()

    def checkpoint_failed(self) -> None:
        """Publish that one was tried in vain; the last good one's numbers stay."""
        if self._rank == 0:
            self._values["checkpoints_total"] += 1
            self._values["checkpoint_failures_total"] += 1
            self._publish()

    def bad_samples(self, counts: Mapping[str, int]) -> None:
        """Count samples that this rank newly found unusable, by reason (a short word)."""
        known = self._values["bad_samples_total"]
        for reason, count in counts.items():
            usual = LABEL_VALUES["reason"].fullmatch(reason) is not None
            room = reason in known or len(known) < MAX_LABEL_VALUES - 1
            key = reason if usual and room else "other"
            known[key] = known.get(key, 0) + count
        self._publish()

    def _step_of_run(self, records: Sequence[Mapping[str, Any]], newest: Mapping[str, Any]) -> None:
        values = self._values
        values |= {name: newest[name] for name in _COPIED}
        values["samples_total"] = newest["samples_seen"]
        total = sum(record["seconds"]["total"] for record in records)
        if total > 0:
            images = sum(r["images_per_second"] * r["seconds"]["total"] for r in records)
            values["images_per_second"] = images / total
        for record in records:
            values["maximum_steps_total"] += record["used_maximum"]
            for part in record.get("skipped", ()):
                values["skipped_steps_total"][part] += 1

    def _kept(self) -> dict[str, Any]:
        """The newest evaluation and checkpoint of the attempt before, so that they stay visible."""
        before = read_snapshot(self._path)
        if before is None or before.run != self._header["run"]:
            return {}
        return {name: before.values[name] for name in _KEPT_OVER_RESTARTS if name in before.values}

    def _publish(self) -> None:
        now = self._clock()
        self._values["resident_memory_bytes"] = resident_memory_bytes()
        snapshot = self._header | {
            "time": now,
            "interval": max(0.0, now - self._written),
            "values": self._values,
        }
        self._written = now
        try:
            write_atomically(self._path, dump(snapshot))
            for path, lines in self._lines.items():
                if lines:
                    _append(path, lines)
                    lines.clear()
        except OSError as error:
            if not self._failing:
                _log.warning("metrics are not written for now, the training goes on: %s", error)
            self._failing = True
        else:
            self._failing = False


def truncate_history(folder: Path, step: int) -> None:
    """Forget steps and evaluations after `step`, where a resumed run begins anew.

    So the history holds each step once. A last line that was cut off in writing goes too.
    """
    for name in (HISTORY, EVALUATIONS):
        path = folder / name
        if path.exists():
            kept = (
                dump(record)
                for record in read_lines(path)
                if type(record.get("step")) is int and record["step"] <= step
            )
            write_atomically(path, "".join(line + "\n" for line in kept))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file with one JSON object a line; none where there is no file.

    A line that is no record (cut off when its writer died) is left out.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _append(path: Path, lines: Sequence[str]) -> None:
    """Add all lines or none."""
    text = "".join(line + "\n" for line in lines).encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(text) != len(text):
            os.truncate(path, before)
            raise OSError(errno.ENOSPC, "no room for all lines", str(path))
