"""Whether the planner's predictions come true: written down first, run afterwards.

    python -m tests.benchmarks.bench_plan [--record] [--predict | --run] [--scale 1] [--visits 6]
        [--minutes 4]

Calibrates one rank of two threads and two ranks of one, each with the backbone of one of the runs,
predicts a step of every configuration, none of which calibration times, and keeps that with the
time and a digest. Then takes the steps, of all configurations in turn and that six times, between
readings of a yardstick; and prints every error and the worst: of the fastest visit, as predictions
are of a machine that nobody else slows down, of the median, and of that with the machine's own
drift divided out. `--predict` stops before the steps, `--run` takes those of the predictions that
are kept. Twenty minutes in all.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.heads import parser, show
from tests.benchmarks.planned import (
    LEAST_S,
    RUN_STEPS,
    Planned,
    PlannedRun,
    Prediction,
    Visit,
    all_planned,
)
from tests.benchmarks.record import RESULTS, Cell, commit, hardware, interleaved, met
from trainer.planning.calibrate import calibrate, load
from trainer.planning.constants import Machine
from trainer.planning.yardstick import Yardstick

WORST = 0.25  # wanted
SETUPS = ((1, 2), (2, 1))


def calibrated(planned: Sequence[Planned], *, minutes: float) -> tuple[Machine, float]:
    """The machine, and the seconds that measuring it took."""
    runs = {each.run.cluster.workers: each for each in planned if isinstance(each, PlannedRun)}
    began = time.perf_counter()
    each_minutes = minutes / len(SETUPS)
    machines = [
        calibrate(runs[setup[0]].calibrating(), [setup], minutes=each_minutes) for setup in SETUPS
    ]
    setups = tuple(setup for machine in machines for setup in machine.setups)
    first = machines[0]
    machine = Machine(
        name=first.name, source=first.source, measured=True, on_cpu=True, setups=setups
    )
    return machine, time.perf_counter() - began


def predict(planned: Sequence[Planned], path: Path, *, minutes: float) -> None:
    """Write every prediction to a file, with when it was made and what with."""
    machine, seconds = calibrated(planned, minutes=minutes)
    kept = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine.source,
        "calibration_s": round(seconds, 1),
        "predictions": {each.name: asdict(each.predicted(machine)) for each in planned},
    }
    path.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"predictions: {path}, sha256 {digest(path)}, calibrated in {seconds:.0f} s", flush=True)


def digest(path: Path) -> str:
    """The file's sha256: what is in it cannot change unnoticed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(
    planned: Sequence[Planned], path: Path, *, visits: int
) -> tuple[list[dict[str, Cell]], list[str]]:
    """Take the steps; one row a configuration, and what else there is to say."""
    kept, before = json.loads(path.read_text()), digest(path)
    began, busy = datetime.now(UTC).isoformat(timespec="seconds"), load()
    measured = interleaved({each.name: each.measured for each in planned}, visits)
    rows = [
        _row(name, _prediction(kept["predictions"][name]), taken)
        for name, taken in measured.items()
    ]
    notes = [
        met("worst error", _worst(rows, "error %") / 100, WORST),
        f"worst error of the medians: {_worst(rows, 'error of median %'):.3g} %; with the"
        f" machine's drift divided out: {_worst(rows, 'error without drift %'):.3g} %",
        "a prediction is of the machine while nobody else slows it down, as the fastest round of"
        " the calibration saw it: its error is that against the fastest visit. Medians are what"
        " came on a machine that others share. Drift is how much slower fixed products and a fixed"
        " copy were right before and after the steps than in the calibration, weighed by the"
        " predicted shares of computing and of moving bytes",
        "worst error of a head's memory, its peak less what the process had:"
        f" {_worst(rows, 'memory error %'):.3g} %",
        f"predictions: written {kept['written']} at commit {kept['commit']}, sha256 {before},"
        f" calibrated in {kept['calibration_s']} s; {kept['machine']}",
        f"the first step was taken after {began}, at a load of {busy:.1f}",
        f"medians of {visits} visits of each configuration in turn; of a visit, the median of steps"
        f" of {LEAST_S:g} s together, of the slowest rank; of a run, of {RUN_STEPS} steps but the"
        " first quarter; spread is of the slowest visit over the fastest",
    ]
    return rows, notes


def _row(name: str, predicted: Prediction, visits: Sequence[Visit]) -> dict[str, Cell]:
    """What was predicted beside what came."""
    taken = [visit.seconds for visit in visits]
    seconds, drifts = statistics.median(taken), [visit.drift(predicted) for visit in visits]
    still = [each / drift for each, drift in zip(taken, drifts, strict=True)]
    row: dict[str, Cell] = {
        "configuration": name,
        "predicted ms": 1e3 * predicted.seconds,
        "fastest ms": 1e3 * min(taken),
        "error %": 100 * (predicted.seconds / min(taken) - 1),
        "median ms": 1e3 * seconds,
        "error of median %": 100 * (predicted.seconds / seconds - 1),
        "spread %": 100 * (max(taken) / min(taken) - 1),
        "drift %": 100 * (statistics.median(drifts) - 1),
        "error without drift %": 100 * (predicted.seconds / statistics.median(still) - 1),
        "predicted MB": "",
        "measured MB": "",
        "memory error %": "",
    }
    added = [visit.head_bytes for visit in visits if visit.head_bytes is not None]
    if predicted.head_bytes is not None and added:
        row["predicted MB"] = predicted.head_bytes / 1e6
        row["measured MB"] = statistics.median(added) / 1e6
        row["memory error %"] = 100 * (predicted.head_bytes / statistics.median(added) - 1)
    return row


def _prediction(kept: Mapping[str, Any]) -> Prediction:
    return Prediction(**{**kept, "yardstick": Yardstick(**kept["yardstick"])})


def _worst(rows: Sequence[Mapping[str, Cell]], column: str) -> float:
    return max(abs(float(row[column])) for row in rows if row[column] != "")


def main() -> None:
    """Predict, measure, and record if asked."""
    flags = parser(__doc__, scale=1, visits=6, minutes=4)
    stage = flags.add_mutually_exclusive_group()
    stage.add_argument("--predict", action="store_true", help="only write predictions")
    stage.add_argument("--run", action="store_true", help="only take steps")
    options: argparse.Namespace = flags.parse_args()
    planned = all_planned(scale=options.scale)
    path = predictions_path(options)
    if not options.run:
        predict(planned, path, minutes=options.minutes)
    if options.predict:
        return
    rows, notes = compare(planned, path, visits=options.visits)
    show("plan", rows, notes, options)


def predictions_path(options: argparse.Namespace) -> Path:
    """Beside the results; where nothing is to be kept, in the folder for passing files."""
    if options.record:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        return RESULTS / f"plan_predictions_{hardware()}_{date}.json"
    return Path("/tmp") / "facescale_plan_predictions.json"


if __name__ == "__main__":
    main()
