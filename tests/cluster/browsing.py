"""`facescale data browse` as a process of its own, as people run it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

VERB = "from cluster.cli import main; main()"


class Served(NamedTuple):
    """A server that runs, and the link it printed."""

    link: str
    process: subprocess.Popen

    @property
    def root(self) -> str:
        """The address of the first page, without the token."""
        return self.link.partition("?")[0]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.link.split(":")[2].partition("/")[0])


def start(*words: object) -> subprocess.Popen:
    """`facescale data browse` with these words."""
    return subprocess.Popen(
        [sys.executable, "-c", VERB, "data", "browse", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def browsing(path: Path, *words: str) -> Iterator[Served]:
    """Serve a dataset while the block runs."""
    process = start(path, "--json", *words)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Served(json.loads(line)["link"], process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
