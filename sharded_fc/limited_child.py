"""Run one reader of strangers' files under limits; `limited.py` starts it.

    python -I limited_child.py READER FOLDER ALLOWANCE_BYTES CPU_SECONDS FILES...

Prints what the reader's `read` returns as JSON, or {"error"}. The process may neither take more
memory, disk or time than it was given nor start another. It imports nothing of this package.
"""

import json
import resource
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def answer(
    read: Callable[[list[Path], Path], dict[str, Any]], files: list[Path], folder: Path
) -> dict[str, Any]:
    """What `read` says, or one line of why it could not."""
    try:
        return read(files, folder)
    except MemoryError:
        return {"error": "it needs more memory than its size allows"}
    except Exception as error:
        # Whatever a stranger's file does to the loader is that file's fault: one line of it.
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"}


def _limit(*, allowance_bytes: int, cpu_seconds: int) -> None:
    """What torch has mapped by now and an allowance, which a file may have too; no new process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: used + allowance_bytes,
        resource.RLIMIT_FSIZE: allowance_bytes,  # a few bytes can claim to be any number of rows
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _main(reader: str, folder: str, allowance_bytes: str, cpu_seconds: str, *files: str) -> None:
    torch.set_num_threads(1)
    read = runpy.run_path(reader)["read"]
    _limit(allowance_bytes=int(allowance_bytes), cpu_seconds=int(cpu_seconds))
    json.dump(answer(read, [Path(file) for file in files], Path(folder)), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
