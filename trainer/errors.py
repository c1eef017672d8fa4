"""The errors of a training run that its user can mend."""


class RunError(ValueError):
    """Says what to change in the run file, the data or the run folder; shown in one line."""


class DiskFullError(RunError):
    """A disk has no room left."""


class RunFileError(RunError):
    """The run file, or a change to it on the command line, is wrong."""
