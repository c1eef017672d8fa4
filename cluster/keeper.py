"""The parent of a local Ray: adopts every process of it, so that ending it leaves none behind.

Ray's daemons outlive `ray start` and its workers outlive their raylet; as a subreaper
(prctl(2), PR_SET_CHILD_SUBREAPER) this process inherits all of them. SIGTERM ends the whole tree.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

from cluster import processes

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
STARTED = "ray is up"
"""The last line on stdout once `ray start` has returned."""


def main(command: list[str]) -> int:
    """Leave the caller, run `ray start ...`, keep its processes until SIGTERM or until all ended.

    The caller gets its exit code at once and nobody to wait for; the first line on stdout is the
    keeper's pid.
    """
    if keeper := os.fork():
        sys.stdout.write(f"{keeper}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    started = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if started.returncode == 0:
        sys.stdout.write(f"{STARTED}\n")
        sys.stdout.flush()
        while not stopping and _reap():
            time.sleep(0.1)
    while children := _children():
        processes.end(children, grace_s=1.0)
        _reap()
    return started.returncode


def _children() -> list[processes.Process]:
    me = processes.find(os.getpid())
    assert me is not None
    return [p for p in processes.with_descendants([me]) if p.pid != me.pid]


def _reap() -> bool:
    """Bury the dead; False when no child is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
