"""The errors of the cluster side that an operator can mend, each with its exit code."""

from enum import IntEnum


class Exit(IntEnum):
    """What the process's exit code says to a script."""

    OK = 0
    FAILED = 1
    """The job failed."""
    USAGE = 2
    """The command, the run file or a name is wrong."""
    CLUSTER = 3
    """The cluster cannot be reached, or does not accept the token."""
    TIMEOUT = 4
    """`wait` gave up; the job goes on."""
    STOPPED = 5
    """Stopped with its work kept; submitting the run again continues it."""


class ClusterError(RuntimeError):
    """Says in one line what to change; `code` is what the command exits with."""

    code = Exit.USAGE


class Unreachable(ClusterError):
    """No answer from the cluster, or it refused the token."""

    code = Exit.CLUSTER
