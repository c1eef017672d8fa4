"""Records what runs on real faces came to: accuracy with its interval, baselines, curve, time.

    python -m tests.benchmarks.lfw3d PAIRS TRAINING RUN_FOLDER...

Scores nothing anew: accuracies are those of the runs' own last evaluations; baselines are computed
here, on the same pairs and folds. Names no person.
"""

import json
import sys
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


def main(arguments: list[str]) -> None:
    pairs, training, *runs = map(Path, arguments)
    opened = PairSet.open(pairs)
    rows = [of_run(run) for run in runs]
    for name, folds in score_baselines(opened, Dataset.open(training)).items():
        low, high = bootstrap_interval(folds.correct, opened.fold)
        known = {
            "what": f"baseline: {name.replace('_', ' ')}",
            "accuracy %": percent(folds.accuracy),
            "95 % interval": interval(low, high),
            "std over folds": percent(folds.std),
        }
        rows.append({column: known.get(column, "") for column in rows[0]})
    notes = [
        "pairs: the 590 of val_pairs.txt, persons not trained on, ten folds; the threshold of a"
        " fold from the other nine; embeddings of a face and its mirror image added",
        "training: persons of LFW3D with two or more images (953 persons, 5,237 faces)",
        "LFW: Huang et al. 2007; LFW3D: Hassner et al. 2015; not comparable with published LFW",
        "the interval draws pairs anew within each fold and keeps the thresholds",
        *(curve(run) for run in runs),
        *(
            f"{run.name}: `facescale submit trainer/recipes/{run.name.replace('-', '_')}.yaml`"
            for run in runs
        ),
    ]
    print(json.dumps(rows, indent=1))
    record(
        "lfw3d", rows, command="python -m tests.benchmarks.lfw3d PAIRS TRAINING RUN...", notes=notes
    )


if __name__ == "__main__":
    main(sys.argv[1:])
