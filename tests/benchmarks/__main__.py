"""`make bench`: every benchmark in turn, each in a process of its own.

    python -m tests.benchmarks [head ...]

With names, only those that begin with one of them.
"""

import subprocess
import sys
from pathlib import Path

wanted = tuple(f"bench_{name}" for name in sys.argv[1:]) or "bench_"
for path in sorted(Path(__file__).parent.glob("bench_*.py")):
    if path.stem.startswith(wanted):
        print(f"== {path.stem}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{path.stem}", "--record"]
        subprocess.run(command, check=True)
