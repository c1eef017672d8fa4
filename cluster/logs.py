"""The logs of a run folder, line by line, as they grow."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """A line and who wrote it."""

    source: str
    text: str


class Sources:
    """The files to read and how far each has been read."""

    def __init__(self, folder: Path, *, rank: int | None) -> None:
        logs = folder / "logs"
        self._files = {f"rank {rank or 0}": logs / f"rank-{rank or 0:05d}.log"}
        if rank is None:
            self._files = {"driver": logs / "driver.log"} | self._files
        self._read = dict.fromkeys(self._files, 0)

    def any(self) -> bool:
        """Whether there is something to read at all."""
        return any(path.exists() for path in self._files.values())

    def new_lines(self) -> list[Line]:
        """Whole lines written since the last call; a line still being written waits."""
        return [line for source, path in self._files.items() for line in self._new(source, path)]

    def _new(self, source: str, path: Path) -> list[Line]:
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read[source])
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self._read[source] += len(whole)
        return [Line(source, text) for text in whole.decode("utf-8", "replace").splitlines()]


def write(line: Line, *, as_json: bool) -> None:
    """Print a line with its source."""
    text = json.dumps(asdict(line)) if as_json else f"{line.source} | {line.text}"
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
