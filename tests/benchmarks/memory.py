"""The memory a head adds to a process: its peak, less what was there just before it was made.

    python -m tests.benchmarks.memory '{"kind": "sharded", ...}' '{"classes": 5000, ...}' THREADS

Every head is measured in a process of its own, since an allocator does not give back all it had.
"""

import ctypes
import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from tests.benchmarks.heads import Candidate, Size, batches, make

STEPS = 3


def peak_bytes(candidate: Candidate, size: Size, *, threads: int) -> int:
    """What making the head and `STEPS` steps add at their peak, centres and momentum included."""
    command = [sys.executable, "-m", "tests.benchmarks.memory"]
    command += [json.dumps(asdict(candidate)), json.dumps(asdict(size)), str(threads)]
    return int(subprocess.check_output(command, text=True))


def _measured(candidate: Candidate, size: Size) -> int:
    _train(candidate, Size(classes=64, dim=64, batch=64))  # imports, threads, libraries' own memory
    # Without this the mark is the highest since the program began: that of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_kb("VmRSS")
    _train(candidate, size)
    return (resident_kb("VmHWM") - before) * 1024


def _train(candidate: Candidate, size: Size) -> None:
    made, data = make(candidate, size), batches(size)
    for _ in range(STEPS):
        made.step(*next(data))


def keep_freed() -> None:
    """Let this process keep what it frees, so that no measured call waits for pages of its own.

    Whether the C library's heap gives a large output back, and fetches it anew at every call, is
    chance: it depends on what else lies there. It is up to half of a light layer's time.
    """
    library = ctypes.CDLL(None)
    # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
    assert library.mallopt(-1, 2**31 - 1)
    assert library.mallopt(-4, 0)


def resident_kb(field: str) -> int:
    """A field of this process's memory: VmRSS, now, or VmHWM, at its highest."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s*(\d+) kB", status)[0])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(_measured(Candidate(**json.loads(sys.argv[1])), Size(**json.loads(sys.argv[2]))))
