"""Object storage by fsspec's libraries, one module each, all held to the same rules.

A library finds its credentials itself and keeps them; it follows no redirect, tries nothing again
(`remote` does, for all of them alike), remembers no listing, and writes none of its own words into
logs: they may hold addresses with signatures.
"""

import logging
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import DataError

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
SETTINGS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and what lets you in",
}
"""Where a library's credentials are looked for when the machine has no role of its own."""

TALKATIVE = ("adlfs", "aiobotocore", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs")


def filesystem(scheme: str) -> Any:
    """The file system of a scheme, as this machine is set up.

    Raises:
        DataError: its library is missing, or cannot be set up.
    """
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    try:
        match scheme:
            case "s3":
                from data_pipeline.object_stores.s3 import open_s3

                return open_s3()
            case "gs":
                from data_pipeline.object_stores.gs import open_gs

                return open_gs()
            case "az":
                from data_pipeline.object_stores.az import open_az

                return open_az()
    except ImportError as error:
        raise DataError(
            f"{scheme}:// needs the package {LIBRARIES[scheme]}: pip install 'facescale[{scheme}]'"
        ) from error
    except Exception as error:  # every library has kinds of its own
        raise DataError(
            f"{scheme}:// cannot be set up on this machine ({type(error).__name__}); "
            f"set {SETTINGS[scheme]}"
        ) from None
    raise AssertionError(f"{scheme} is no object storage")


class RedirectedError(Exception):
    """A storage leads elsewhere."""


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a library's error stands for, if there is one."""
    for each in _causes(error):
        match each:
            case FileNotFoundError():
                return 404
            case PermissionError():
                return 403
            case RedirectedError():
                return 307
        match type(each).__module__.partition(".")[0]:
            case "azure":
                status = getattr(each, "status_code", None)
            case "botocore":
                answer = getattr(each, "response", {})
                status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            case "gcsfs":
                refused_for_now = getattr(each.__cause__, "retryable", False)  # google.auth's
                status = None if refused_for_now else getattr(each, "code", None)
            case _:  # gcsfs gives one of Python's own here
                status = 403 if str(each).startswith("Forbidden: ") else None
        if status is not None:
            return int(status)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
