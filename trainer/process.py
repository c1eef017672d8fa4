"""Naming a process so that another one can tell, later, whether it still lives.

A process id alone is not enough: ids are used again, and in another container or on another host
the same id is a stranger. Reads Linux' /proc.
"""

import os
from pathlib import Path

_PROC = Path("/proc")
_DEAD_STATES = ("Z", "X")  # a zombie still has a folder in /proc


def process_mark(pid: int) -> str:
    """A text that names a running process, on this boot of this host, in this container."""
    _, started = _state_and_start(pid)
    return f"{_place()} pid {pid} {started}"


def process_alive(mark: str) -> bool | None:
    """Whether the marked process lives; None where that cannot be seen from here."""
    place, _, process = mark.rpartition(" pid ")
    pid, _, started = process.partition(" ")
    if place != _place() or not pid.isdecimal():
        return None
    try:
        state, start = _state_and_start(int(pid))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return start == started and state not in _DEAD_STATES


def resident_memory_bytes() -> int:
    """Memory this process holds."""
    pages = int((_PROC / "self" / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _place() -> str:
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"


def _state_and_start(pid: int) -> tuple[str, str]:
    stat = (_PROC / str(pid) / "stat").read_text()
    fields = stat.rpartition(")")[2].split()  # the command before it may hold spaces and brackets
    return fields[0], fields[19]
