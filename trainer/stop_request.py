"""How a rank learns that somebody wants the run to stop: a file, or a signal."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Self

from trainer import run_folder


class StopRequest:
    """Whether this rank was asked to stop, by the run folder's stop file or by SIGTERM."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / run_folder.STOP_FILE
        self._signalled = False

    @property
    def requested(self) -> bool:
        """Whether it was, so far."""
        return self._signalled or self._file.exists()

    def __enter__(self) -> Self:
        # Ray runs the training function in a thread, where Python cannot take signals.
        self._before = (
            signal.signal(signal.SIGTERM, self._on_signal)
            if threading.current_thread() is threading.main_thread()
            else None
        )
        return self

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signalled = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
