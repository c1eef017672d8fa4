import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from cluster import processes
from cluster.processes import Process

# a child that ignores SIGTERM, with a child of its own; says so once both are there
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
import time; time.sleep(600)
"""


@pytest.fixture
def family():
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = processes.find(int(parent.stdout.readline()))
        own = processes.find(parent.pid)
        assert own is not None
        assert child is not None
        yield own, child
        for process in (own, child):
            processes.send(process, signal.SIGKILL)


def test_a_process_is_alive_under_its_start_time_only(family):
    parent, _ = family
    assert parent.alive()
    assert not replace(parent, started=parent.started - 1).alive()


def test_a_reused_pid_is_never_signalled(family):
    parent, _ = family
    before = Process(parent.pid, parent.started - 1)
    processes.send(before, signal.SIGKILL)
    assert processes.end([before], grace_s=0) == []
    assert parent.alive()


def test_descendants_are_found_through_their_parents(family):
    parent, child = family
    me = processes.find(os.getpid())
    assert me is not None
    assert processes.with_descendants([parent]) == [parent, child]
    assert parent in processes.children(me)
    assert child not in processes.children(me)


def test_ending_a_process_ends_its_children_and_those_that_ignore_sigterm(family):
    parent, child = family
    assert processes.end([parent], grace_s=0.2) == [parent, child]
    assert not parent.alive()
    assert not child.alive()


def test_a_pid_without_a_process_is_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert processes.find(gone.pid) is None
    processes.send(Process(gone.pid, 1), signal.SIGKILL)
