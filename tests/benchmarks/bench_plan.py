"""Whether the planner's predictions come true: written down first, run afterwards.

    python -m tests.benchmarks.bench_plan [--record] [--predict | --run] [--scale 1]

Calibrates one rank of two threads and two ranks of one, each with the backbone of one of the runs,
predicts a step of every configuration, none of which calibration times, and keeps that with the
time and a digest. Then takes the steps, and prints every error and the worst. `--predict` stops
before the steps, `--run` takes those of the predictions that are kept.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.heads import parser, show
from tests.benchmarks.planned import Figures, Planned, PlannedRun, all_planned
from tests.benchmarks.record import RESULTS, Cell, commit, hardware, met
from trainer.planning.calibrate import calibrate, load
from trainer.planning.constants import Machine

WORST = 0.25  # wanted
SETUPS = ((1, 2), (2, 1))


def calibrated(planned: Sequence[Planned]) -> tuple[Machine, float]:
    """The machine, and the seconds that measuring it took."""
    runs = {each.run.cluster.workers: each for each in planned if isinstance(each, PlannedRun)}
    began = time.perf_counter()
    machines = [calibrate(runs[setup[0]].calibrating(), [setup]) for setup in SETUPS]
    setups = tuple(setup for machine in machines for setup in machine.setups)
    first = machines[0]
    machine = Machine(
        name=first.name, source=first.source, measured=True, on_cpu=True, setups=setups
    )
    return machine, time.perf_counter() - began


def predict(planned: Sequence[Planned], path: Path) -> None:
    """Write every prediction to a file, with when it was made and what with."""
    machine, seconds = calibrated(planned)
    predictions = {each.name: each.predicted(machine)._asdict() for each in planned}
    kept = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine.source,
        "calibration_s": round(seconds, 1),
        "predictions": predictions,
    }
    path.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"predictions: {path}, sha256 {digest(path)}, calibrated in {seconds:.0f} s")


def digest(path: Path) -> str:
    """The file's sha256: what is in it cannot change unnoticed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(planned: Sequence[Planned], path: Path) -> tuple[list[dict[str, Cell]], list[str]]:
    """Take the steps; one row a configuration, and what else there is to say."""
    kept, before = json.loads(path.read_text()), digest(path)
    began, busy = datetime.now(UTC).isoformat(timespec="seconds"), load()
    rows: list[dict[str, Cell]] = []
    for each in planned:
        predicted, measured = Figures(**kept["predictions"][each.name]), each.measured()
        row: dict[str, Cell] = {
            "configuration": each.name,
            "predicted ms": 1e3 * predicted.seconds,
            "measured ms": 1e3 * measured.seconds,
            "error %": 100 * (predicted.seconds / measured.seconds - 1),
            "predicted MB": "",
            "measured MB": "",
            "memory error %": "",
        }
        if predicted.head_bytes is not None and measured.head_bytes is not None:
            row["predicted MB"] = predicted.head_bytes / 1e6
            row["measured MB"] = measured.head_bytes / 1e6
            row["memory error %"] = 100 * (predicted.head_bytes / measured.head_bytes - 1)
        rows.append(row)
        print(f"{each.name}: {float(row['error %']):+.1f} %", flush=True)
    worst = max(abs(float(row["error %"])) for row in rows) / 100
    memory = [abs(float(row["memory error %"])) for row in rows if row["memory error %"] != ""]
    notes = [
        met("worst error", worst, WORST),
        f"worst error of a head's memory, its peak less what the process had: {max(memory):.3g} %",
        f"predictions: written {kept['written']} at commit {kept['commit']}, sha256 {before},"
        f" calibrated in {kept['calibration_s']} s; {kept['machine']}",
        f"the first step was taken after {began}, at a load of {busy:.1f}",
        "medians of steps of at least 3 s together, of the slowest rank; of runs, of 30 steps",
    ]
    return rows, notes


def main() -> None:
    """Predict, measure, and record if asked."""
    flags = parser(__doc__, scale=1)
    stage = flags.add_mutually_exclusive_group()
    stage.add_argument("--predict", action="store_true", help="only write predictions")
    stage.add_argument("--run", action="store_true", help="only take steps")
    options: argparse.Namespace = flags.parse_args()
    planned = all_planned(scale=options.scale)
    path = predictions_path(options)
    if not options.run:
        predict(planned, path)
    if options.predict:
        return
    rows, notes = compare(planned, path)
    show("plan", rows, notes, options)


def predictions_path(options: argparse.Namespace) -> Path:
    """Beside the results; where nothing is to be kept, in the folder for passing files."""
    if options.record:
        date = datetime.now(UTC).strftime("%Y-%m-%d")
        return RESULTS / f"plan_predictions_{hardware()}_{date}.json"
    return Path("/tmp") / "facescale_plan_predictions.json"


if __name__ == "__main__":
    main()
