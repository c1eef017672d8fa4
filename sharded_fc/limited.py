"""Strangers' files, read by a process of its own that can neither take much nor start another.

A reader is a script with a function `read(files, folder)`: it writes numbers into the folder and
says in plain values what it wrote, or raises. `limited_child.py` runs it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("limited_child.py")

# What reading may take beyond torch itself: the file mapped, or read and unpacked, and room to
# convert. The time is for a slow disk's share of CPU: torch starts in 3 s, rows convert at 1 GB/s.
ALLOWANCE_A_BYTE = 3
ALLOWANCE_BYTES = 512 << 20
_CPU_SECONDS = 60
_CPU_SECONDS_A_GIB = 20


def ask(reader: Path, files: list[Path], folder: Path) -> dict[str, Any]:
    """What the reader says of the files, or {"error"} with one line of what is wrong."""
    size = sum(file.stat().st_size for file in files)
    limits = (
        size * ALLOWANCE_A_BYTE + ALLOWANCE_BYTES,
        _CPU_SECONDS + _CPU_SECONDS_A_GIB * (size >> 30),
    )
    # An environment of its own: nothing of ours is to be found in it but where libraries are.
    environment = {n: os.environ[n] for n in ("LD_LIBRARY_PATH",) if n in os.environ}
    paths = [file.resolve() for file in files]
    child = subprocess.run(
        [sys.executable, "-I", _CHILD, reader, folder, *map(str, limits), *paths],
        check=False,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    try:
        return json.loads(child.stdout)
    except ValueError:
        reason = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        return {"error": f"its reader ended with status {child.returncode}: {reason[-1]}"}
