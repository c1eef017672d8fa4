"""Progress bars, on terminals only."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(
    what: str, *, unit: str, show: bool, total: int | None = None, done: int = 0
) -> "tqdm[Any]":
    """A bar on stderr that begins at `done`; none is drawn unless that is a terminal."""
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        file=sys.stderr,
        disable=None if show else True,  # None: only on a terminal
    )
