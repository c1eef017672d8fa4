"""Writes a benchmark's figures to a dated file that says how they came about.

`record()` is shared by all benchmarks: one markdown table, with the commit, the command, the
versions and the machine above it; `met()` words what was wanted of a figure. `interleaved()`
repeats several candidates in turn, so that a machine that slows down half-way slows all of them.
Nothing here measures time.
"""

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "nvidia-dali-cuda120", "deepspeed", "ray", "webdataset", "pillow")

Cell = str | int | float
T = TypeVar("T")


def interleaved(candidates: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Call every candidate once a round, for `repeats` rounds; the figures by name, in order."""
    figures: dict[str, list[T]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            figures[name].append(run())
    return figures


def record(
    name: str,
    rows: Sequence[Mapping[str, Cell]],
    *,
    command: str,
    notes: Sequence[str] = (),
    results: Path = RESULTS,
) -> Path:
    """Write `rows` as `results/<name>_<hardware>_<date>.md`; a second run on a day replaces it."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    path = results / f"{name}_{re.sub(r'[^a-z0-9]+', '-', hardware().lower())}_{date}.md"
    columns = list(rows[0])
    table = [columns, ["---"] * len(columns), *([text(row[c]) for c in columns] for row in rows)]
    lines = [f"# {name}", "", f"- commit: {commit()}", f"- command: `{command}`"]
    lines += [f"- device: {device()}", f"- date: {date}", f"- versions: {versions()}"]
    lines += [f"- {note}" for note in notes]
    lines += ["", *("| " + " | ".join(cells) + " |" for cells in table), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def met(what: str, value: float, limit: float) -> str:
    """A note: the figure, the most it was to be, and whether it is."""
    verdict = "met" if value <= limit else "missed"
    return f"{what}: {value:.3g}, wanted at most {limit:g}: {verdict}"


def text(cell: Cell) -> str:
    """A cell of the table: floats to four digits, everything else as it is."""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"


def hardware() -> str:
    """A few words for the file name: the GPU, or how many CPU cores this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"cpu{len(os.sched_getaffinity(0))}"


def device() -> str:
    """The processor and the GPU, in words."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    model = models[0] if models else platform.machine()
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ", no GPU"
    return f"{model}, {len(os.sched_getaffinity(0))} cores{gpu}"


def commit() -> str:
    """The commit the figures belong to, and whether the tree differed from it."""

    def git(*words: str) -> str:
        return subprocess.check_output(["git", *words], cwd=RESULTS.parent, text=True).strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + (" with uncommitted changes" if changed else "")


def versions() -> str:
    """Python's version and those of the installed packages that matter here."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    listed = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
    return ", ".join([f"python {platform.python_version()}", *listed])
