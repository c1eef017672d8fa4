"""Processes by identity, not by name: a pid together with its start time.

A pid is reused after its process ends; the pair never is, so nothing here can end somebody else's
process. Reads Linux's /proc.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process, for as long as it lives."""

    pid: int
    started: int
    """Clock ticks from boot to its start (field 22 of /proc/PID/stat)."""

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.started == self.started and stat.state not in "ZX"


@dataclass(frozen=True)
class _Stat:
    pid: int
    parent: int
    started: int
    state: str


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # the command is in parentheses and may hold anything, parentheses too: cut after the last one
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(pid=pid, state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def find(pid: int) -> Process | None:
    """The process that has this pid now."""
    stat = _stat(pid)
    return None if stat is None else Process(pid, stat.started)


def with_descendants(roots: Iterable[Process]) -> list[Process]:
    """Those of `roots` that live, and all their children's children, parents first."""
    stats = [s for s in map(_stat, _all_pids()) if s is not None]
    children: dict[int, list[_Stat]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    found: dict[int, Process] = {}
    queue = [root for root in roots if root.alive()]
    while queue:
        process = queue.pop(0)
        if process.pid in found:
            continue
        found[process.pid] = process
        queue += [
            Process(c.pid, c.started) for c in children.get(process.pid, []) if c.state != "Z"
        ]
    return list(found.values())


def children(parent: Process) -> list[Process]:
    """The living processes that this one has as its children now."""
    stats = [s for s in map(_stat, _all_pids()) if s is not None]
    return [Process(s.pid, s.started) for s in stats if s.parent == parent.pid and s.state != "Z"]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process; one that has ended meanwhile is fine.

    The check and the signal refer to the same process: a pidfd is opened first.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.alive():
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass  # it ended between the check and the signal, which is what we wanted
    finally:
        os.close(handle)


def end(roots: Iterable[Process], *, grace_s: float) -> list[Process]:
    """End processes with all their descendants: SIGTERM, then SIGKILL after `grace_s`.

    Returns those that were alive. Descendants born meanwhile are looked for again until none is
    left.
    """
    roots = list(roots)
    seen = {p.pid: p for p in with_descendants(roots)}
    for process in seen.values():
        send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(p.alive() for p in seen.values()):
        seen |= {p.pid: p for p in with_descendants(seen.values())}
        if time.monotonic() > deadline:
            for process in seen.values():
                send(process, signal.SIGKILL)
        time.sleep(0.05)
    return list(seen.values())
