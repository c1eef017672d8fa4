"""`facescale train`, `verify`, `baselines` and `report`: runs on this machine."""

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import Exit


@errors_in_one_line
def train(
    run_file: Positional[Path], changes: Positional[tuple[str, ...]] = (), /, *, json: bool = False
) -> int:
    """Train a run on this machine, without a cluster; the same name continues where it was.

    Args:
        run_file: the run, in YAML
        changes: one-off changes to it, such as steps=100 head.scale=32
        json: print the result as JSON
    """
    from cluster.exporter import NodeExporter
    from trainer import config, run_folder
    from trainer.launch import run_local
    from trainer.report import write

    run = config.load(run_file, changes)
    folder = run_folder.prepare(run)
    exporter = NodeExporter(folder, bind=run.metrics.bind, port=run.metrics.port)
    try:
        outcome = run_local(run, folder)
    finally:
        exporter.stop()
    show({"outcome": outcome, "folder": str(folder), "report": str(write(folder))}, as_json=json)
    return Exit.OK if outcome == "finished" else Exit.STOPPED


@errors_in_one_line
def verify(
    folder: Positional[Path], pairs: Positional[Path], /, *, threads: int = 1, json: bool = False
) -> int:
    """Score a trained run on a verification set, from its newest checkpoint.

    Args:
        folder: the run folder
        pairs: a verification set, as `facescale data pairs` or `data synth --pairs` makes
        threads: CPU threads
        json: print the result as JSON
    """
    from trainer.evaluate.trained import verify_run

    result = verify_run(folder, pairs, threads=threads)
    show(result if json else _for_a_terminal(result), as_json=json)
    return Exit.OK


@errors_in_one_line
def baselines(pairs: Positional[Path], fit: Positional[Path], /, *, json: bool = False) -> int:
    """Score a verification set without a network: pixels, colours, whitened PCA.

    Args:
        pairs: a verification set
        fit: the training set that the PCA is fitted on
        json: print the result as JSON
    """
    from data_pipeline.index import Dataset
    from data_pipeline.pairs import PairSet
    from trainer.evaluate.baselines import score_baselines

    accuracies = score_baselines(PairSet.open(pairs), Dataset.open(fit))
    show({name: fold.accuracy for name, fold in accuracies.items()}, as_json=json)
    return Exit.OK


@errors_in_one_line
def report(folder: Positional[Path], /, *, json: bool = False) -> int:
    """Draw a run's report.html from what it has written so far.

    Args:
        folder: the run folder
        json: print the result as JSON
    """
    from trainer.errors import RunError
    from trainer.report import write

    if not (folder / "run.yaml").exists():
        raise RunError(f"{folder} is not a run folder: it has no run.yaml")
    show({"report": str(write(folder))}, as_json=json)
    return Exit.OK


def _for_a_terminal(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("roc", "time")}
