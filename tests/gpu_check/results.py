"""Figures that are kept as soon as they are there: a card may be gone the next minute."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.record import RESULTS, Cell, commit, device, hardware, text, versions


class Results:
    """A markdown file that grows: sections, each a table whose columns the first row names."""

    def __init__(self, folder: Path = RESULTS) -> None:
        date = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
        name = re.sub(r"[^a-z0-9]+", "-", hardware().lower())
        self.path = folder / f"gpu-check_{name}_{date}.md"
        folder.mkdir(parents=True, exist_ok=True)
        head = [f"- commit: {commit()}", "- command: `make gpu-check`", f"- device: {device()}"]
        self.path.write_text("\n".join(["# gpu-check", "", *head, f"- versions: {versions()}", ""]))
        self._columns: tuple[str, ...] = ()

    def section(self, title: str, note: str) -> None:
        """Begin a table."""
        self._columns = ()
        self._write(f"\n## {title}\n\n{note}\n")

    def row(self, figures: Mapping[str, Cell]) -> None:
        """Add a row, and the head of the table before the first or where the columns change."""
        if tuple(figures) != self._columns:
            self._columns = tuple(figures)
            self._write("\n" + _line(self._columns) + _line(["---"] * len(self._columns)))
        self._write(_line([text(cell) for cell in figures.values()]))

    def _write(self, words: str) -> None:
        print(words, end="", flush=True)
        with self.path.open("a") as file:
            file.write(words)


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"
