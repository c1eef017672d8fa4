"""How long `facescale --help` takes, as a user feels it: a fresh process each time."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.record import interleaved, record

FACESCALE = Path(sys.executable).parent / "facescale"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "facescale --help": [str(FACESCALE), "--help"],
    "facescale train --help": [str(FACESCALE), "train", "--help"],
    "facescale models": [str(FACESCALE), "models"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure, and record if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="keep the figures in results/")
    arguments = parser.parse_args()
    timed = interleaved(
        {name: lambda command=command: seconds(command) for name, command in COMMANDS.items()}, 11
    )
    rows = [
        {"command": name, "median s": statistics.median(times), "best s": min(times)}
        for name, times in timed.items()
    ]
    for row in rows:
        print(row)
    if arguments.record:
        record("help", rows, command="python -m tests.benchmarks.bench_help --record")


if __name__ == "__main__":
    main()
