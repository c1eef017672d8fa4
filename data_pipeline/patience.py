"""Asking a storage or a web server again, where that may help, and an error that tells no secret.

Of a library's error only its kind or its HTTP status is told: its text may hold a signed address.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.https import TRANSIENT, AnswerError
from data_pipeline.object_stores import status_of

TRIES = 6  # in a row without a byte; with the waits below, half a minute
FIRST_WAIT_S = 1.0  # doubled from try to try

T = TypeVar("T")


class Patience:
    """Tries again what fails for now; once it was in vain, only once until something succeeds.

    So that who asks for thousands of files while a network is down waits for one of them.
    """

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self._sleep = sleep
        self._tries = TRIES

    def ask(
        self,
        attempt: Callable[[], T],
        address: Address,
        *,
        failed: Callable[[], object] = lambda: None,
    ) -> T:
        """What `attempt` returns, at the first or a later try; `failed` is called between them.

        Raises:
            DataError: another try would not help, or none of them did.
        """
        tries = self._tries
        for number in range(tries):
            try:
                result = attempt()
            except (DataError, MemoryError):
                raise
            except Exception as error:  # every storage library has kinds of its own
                failed()
                status = status_of(error)
                if (reason := _lasting(status)) is not None:
                    raise DataError(f"{address} {reason}") from None
                if number < tries - 1:
                    self._sleep(FIRST_WAIT_S * 2**number)
                    continue
                self._tries = 1
                how = f", after {tries} tries" if tries > 1 else " either"
                told = _kind(error) if status is None else f"the storage answers {status}"
                raise DataError(
                    f"{address} cannot be read{how} ({told}); "
                    "check the network and the credentials of this machine"
                ) from None
            self._tries = TRIES
            return result
        raise AssertionError("the last try returns or raises")


def _lasting(status: int | None) -> str | None:
    """Why another try would not help, in words; `None` where it might."""
    if status is None or status in TRANSIENT or status >= 500:
        return None
    if status in (401, 403):
        return "may not be read with the credentials of this machine"
    if status == 404:
        return "is not there"
    if 300 <= status < 400:
        return f"is redirected to another address, which is not followed ({status})"
    return f"cannot be read (the storage answers {status})"


def _kind(error: Exception) -> str:
    """What kind of error it is; its text only where we wrote it."""
    if isinstance(error, AnswerError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return f"{name}: {os.strerror(error.errno or 0)}"
    return name
