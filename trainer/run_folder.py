"""The folder of one run: what is in it, and which changes of the run file it accepts.

    runs/<name>/  run.yaml  checkpoints/  metrics/  logs/  attempts.jsonl  report.html
                  [rows/]  [conflicts.csv]  [stop]

A run of the same name continues. What would change the meaning of its samples or weights is
refused; what only changes how long, where or how often may differ.
"""

import os
from pathlib import Path
from typing import Any

from trainer.config import RunConfig, dump, from_tree, plain, read_tree
from trainer.errors import RunError

MAY_CHANGE = (
    "steps",
    "runs",
    "data.threads",
    "data.bad_sample_budget",
    "head.precision",
    "head.rows_folder",
    "head.conflict_cosine",
    "engine",
    "verify",
    "every",
    "checkpoint",
    "metrics",
    "cluster",
)
"""Fields (with what lies under them) that a continued run may have otherwise."""

STOP_FILE = "stop"
CONFLICTS = "conflicts.csv"
ROWS = "rows"


def prepare(config: RunConfig) -> Path:
    """Make or reopen the run folder; keeps the resolved run file in it.

    Raises:
        RunError: the folder belongs to a run that differs in what it computes, or keeps a run file
            that is not one.
    """
    folder = config.folder
    kept = folder / "run.yaml"
    if kept.exists():
        # Read as a run file, so that a field added since counts with its default.
        _refuse_other_run(from_tree(read_tree(kept), source=str(kept)), config)
    for part in ("checkpoints", "metrics", "logs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / STOP_FILE).unlink(missing_ok=True)
    write_atomically(kept, dump(config))
    return folder


def _refuse_other_run(before: RunConfig, config: RunConfig) -> None:
    changed = [
        f"{path} was {old!r}, now {new!r}"
        for path, old, new in differences(plain(before), plain(config))
        if not any(path == field or path.startswith(field + ".") for field in MAY_CHANGE)
    ]
    if changed:
        raise RunError(
            f"{config.folder} holds another run of this name: {'; '.join(changed)};"
            " choose another name, or remove that folder"
        )


def differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves in which two trees of plain values differ: (dotted path, before, now)."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[tuple[str, Any, Any]] = []
        for key in sorted(before.keys() | now.keys()):
            below = f"{path}.{key}" if path else str(key)
            found += differences(before.get(key), now.get(key), below)
        return found
    return [] if before == now else [(path, before, now)]


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text so that a reader sees the old or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
