"""Runs a command under a memory limit, page cache included.

    python -m tests.benchmarks.memory_limit GIB COMMAND [ARGUMENT ...]

In a control group below this process's own where the first version of control groups is mounted and
may be written; else by `systemd-run`. Where neither can be had, one line says why, and the exit
status is 2.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

_CONTROLLER = Path("/sys/fs/cgroup/memory")


def run(gib: int, command: list[str]) -> int:
    """The exit status of `command` in at most `gib` GiB."""
    if _CONTROLLER.is_dir() and os.access(_own_group(), os.W_OK):
        with _group(gib << 30) as group:
            enter = partial((group / "cgroup.procs").write_text, "0")
            return subprocess.run(command, check=False, preexec_fn=enter).returncode
    if shutil.which("systemd-run") is None:
        raise OSError(f"{_CONTROLLER} cannot be written, and there is no systemd-run")
    limit = ["systemd-run", "--scope", "--quiet", "-p", f"MemoryMax={gib}G"]
    return subprocess.run([*limit, *command], check=False).returncode


@contextlib.contextmanager
def _group(limit: int) -> Iterator[Path]:
    """A group of its own with `limit` bytes; removed afterwards."""
    group = _own_group() / f"limited-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def _own_group() -> Path:
    """Where this process is counted."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CONTROLLER / path.lstrip("/")
    return _CONTROLLER


def main() -> None:
    """Run the command given."""
    gib, *command = sys.argv[1:]
    try:
        status = run(int(gib), command)
    except OSError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
