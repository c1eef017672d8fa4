"""Records what runs on real faces came to: accuracy with its interval, baselines, curve, time.

    python -m tests.benchmarks.lfw3d --pairs SET --fit TRAINING... --runs RUN_FOLDER...

Scores nothing anew: accuracies are those of the runs' own last evaluations; baselines are computed
here, on the same pairs and folds, fitted on each training set. Names no person.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from data_pipeline.index import Dataset
from data_pipeline.pairs import PairSet
from tests.benchmarks.record import Cell, record
from trainer.evaluate.baselines import score_baselines
from trainer.evaluate.verification import bootstrap_interval
from trainer.metrics import read_lines

CURVE_POINTS = 11


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def interval(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def of_run(folder: Path) -> dict[str, Cell]:
    """One row: how the run was trained and how it verified at its end."""
    run = yaml.safe_load((folder / "run.yaml").read_text())
    last = list(read_lines(folder / "metrics" / "evaluations.jsonl"))[-1]
    history = list(read_lines(folder / "metrics" / "history.jsonl"))
    return {
        "what": f"{run['backbone']['name']}, {run['data']['image_size']} px",
        "accuracy %": percent(last["accuracy"]),
        "95 % interval": interval(*last["interval"]),
        "std over folds": percent(last["accuracy_std"]),
        "TAR at FAR 1e-1 / 1e-2 %": " / ".join(percent(last["tar"][f]) for f in ("1e-1", "1e-2")),
        "AUC": f"{last['auc']:.4f}",
        "images seen": history[-1]["samples_seen"],
        "minutes of steps": f"{sum(h['seconds']['total'] for h in history) / 60:.1f}",
        "attempts": len((folder / "attempts.jsonl").read_text().splitlines()),
    }


def curve(folder: Path) -> str:
    """The training loss and target cosine at a few steps, as one line."""
    history = list(read_lines(folder / "metrics" / "history.jsonl"))
    chosen = [history[i * (len(history) - 1) // (CURVE_POINTS - 1)] for i in range(CURVE_POINTS)]
    points = ", ".join(f"{h['step']}: {h['loss']:.2f} ({h['target_cosine']:.2f})" for h in chosen)
    return f"{folder.name}, loss (target cosine) by step: {points}"


def of_baselines(pairs: PairSet, training: Dataset) -> Iterator[dict[str, Cell]]:
    """One row for each way without a network."""
    for name, folds in score_baselines(pairs, training).items():
        yield {
            "what": name.replace("_", " ")
            + (f", fitted on {training.num_samples} faces" if name == "whitened_pca" else ""),
            "accuracy %": percent(folds.accuracy),
            "95 % interval": interval(*bootstrap_interval(folds.correct, pairs.fold)),
            "std over folds": percent(folds.std),
        }


def main() -> None:
    """Collect and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--fit", type=Path, nargs="+", required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    rows = [of_run(run) for run in arguments.runs]
    pairs = PairSet.open(arguments.pairs)
    for training in map(Dataset.open, arguments.fit):
        for row in of_baselines(pairs, training):
            filled = {column: row.get(column, "") for column in rows[0]}
            rows += [filled] if filled not in rows else []
    notes = [
        "pairs: the 590 of val_pairs.txt, persons not trained on, ten folds; the threshold of a"
        " fold from the other nine; embeddings of a face and its mirror image added",
        "networks are trained on the persons of LFW3D with two or more images (953 persons, 5,237"
        " faces): `facescale submit trainer/recipes/lfw3d_*.yaml`, two workers of one thread",
        "LFW: Huang et al. 2007; LFW3D: Hassner et al. 2015; not comparable with published LFW",
        "the interval draws pairs anew within each fold and keeps the thresholds",
        *map(curve, arguments.runs),
    ]
    for row in rows:
        print(row)
    record(
        "lfw3d",
        rows,
        command=f"python -m tests.benchmarks.lfw3d {' '.join(sys.argv[1:])}",
        notes=notes,
    )


if __name__ == "__main__":
    main()
