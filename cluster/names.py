"""From what a person types (a run's name, or its folder) to the run folder."""

import re
from pathlib import Path

from cluster.errors import ClusterError
from trainer.config import RUN_NAME


def check(name: str) -> str:
    """The name itself, if it is one.

    Raises:
        ClusterError: it could be a path or a piece of shell, or is too long for a label.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise ClusterError(
            f"{name!r} is no run name: 1 to 63 lower-case letters, digits and inner hyphens"
        )
    return name


def run_folder(run: str, runs: Path) -> Path:
    """The existing folder of a run given by name (looked up in `runs`) or by path.

    Raises:
        ClusterError: there is none.
    """
    by_path = Path(run)
    if "/" in run and (by_path / "run.yaml").is_file():
        check(by_path.resolve().name)
        return by_path.resolve()
    if "/" in run:
        raise ClusterError(f"{run} is not a run folder: it has no run.yaml")
    folder = runs.resolve() / check(run)
    if not (folder / "run.yaml").is_file():
        raise ClusterError(
            f"no run {run!r} in {runs.resolve()}; give its folder instead, or the folder of runs"
            " with --runs"
        )
    return folder
