"""Reading tars that lie elsewhere: object storage through fsspec, web servers through `https`.

Credentials are found by the storage's own library (its environment, files, the machine's role);
nothing here takes, keeps or prints any, and of a library's error only its kind is told, because
its text may hold a signed address. A read that breaks off is taken up where it broke off.
"""

import os
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from data_pipeline.addresses import OBJECT_STORES, Address
from data_pipeline.errors import DataError
from data_pipeline.https import AnswerError, open_https

PRIVATE_HOSTS = "FACESCALE_PRIVATE_HOSTS"
TRIES = 6  # in a row without a byte; with the waits below, a minute or so
FIRST_WAIT_S = 1.0  # doubled from try to try
BLOCK_BYTES = 8 << 20  # of one request to object storage: large enough to hide its latency
LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}


@runtime_checkable  # by the shape checks of the tests
class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Remote:
    """Opens addresses; the same for a whole process."""

    def __init__(
        self,
        *,
        private_hosts: Collection[str] = (),
        context: ssl.SSLContext | None = None,
        filesystem: Callable[[str], Any] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Open nothing yet.

        Args:
            private_hosts: web hosts that may have an address in a private network
            context: certificates that are trusted; by default those of the machine
            filesystem: what makes fsspec's file system of a scheme; by default fsspec
            sleep: waits so many seconds before another try
        """
        self._private_hosts = tuple(private_hosts)
        self._context = context
        self._filesystem = filesystem or _filesystem
        self._sleep = sleep

    @classmethod
    def of_node(cls, environ: Mapping[str, str] = os.environ) -> "Remote":
        """As this machine is set up: `FACESCALE_PRIVATE_HOSTS` names hosts, with commas between."""
        names = environ.get(PRIVATE_HOSTS, "").split(",")
        return cls(private_hosts=[name.strip() for name in names if name.strip()])

    def open(self, address: Address, *, start: int = 0) -> "RemoteFile":
        """The bytes of a file from `start` on."""
        return RemoteFile(address, start, connect=self._connect, sleep=self._sleep)

    def tars_below(self, address: Address) -> list[Address]:
        """The addresses of the `.tar` files in a folder of object storage, sorted."""
        if address.scheme not in OBJECT_STORES:
            raise DataError(f"{address} cannot be listed; write its tars' addresses into a file")
        try:
            names = self._filesystem(address.scheme).ls(_path(address).rstrip("/"), detail=False)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise DataError(f"{address} cannot be listed ({_kind(error)})") from error
        found = [
            Address.parse(f"{address.scheme}://{str(name).lstrip('/')}")
            for name in names
            if str(name).endswith(".tar")
        ]
        if not found:
            raise DataError(f"{address} holds no .tar files")
        return sorted(found)

    def _connect(self, address: Address, start: int) -> _Stream:
        if address.is_local:
            if not address.file.is_file():  # a folder, or a pipe that would never end
                raise FileNotFoundError
            stream = address.file.open("rb")
            stream.seek(start)
            return stream
        if address.scheme == "https":
            return open_https(
                address, start=start, private_hosts=self._private_hosts, context=self._context
            )
        stream = self._filesystem(address.scheme).open(
            _path(address), "rb", block_size=BLOCK_BYTES, cache_type="readahead"
        )
        stream.seek(start)
        return stream


class RemoteFile:
    """The bytes of a file from a place on; reconnects where the network fails."""

    def __init__(
        self,
        address: Address,
        start: int,
        *,
        connect: Callable[[Address, int], _Stream],
        sleep: Callable[[float], object],
    ) -> None:
        self._address = address
        self._position = start
        self._connect = connect
        self._sleep = sleep
        self._stream: _Stream | None = None

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end.

        Raises:
            DataError: the file is not there, may not be read, or failed `TRIES` times in a row.
        """
        for attempt in range(TRIES):
            try:
                if self._stream is None:
                    self._stream = self._connect(self._address, self._position)
                content = self._stream.read(size)
            except (DataError, MemoryError):
                raise
            except (FileNotFoundError, PermissionError) as error:
                what = "is not there" if isinstance(error, FileNotFoundError) else "may not be read"
                raise DataError(f"{self._address} {what}") from error
            except Exception as error:  # every storage library has kinds of its own
                self.close()
                if attempt == TRIES - 1:
                    raise DataError(
                        f"{self._address} cannot be read, after {TRIES} tries ({_kind(error)}); "
                        "check the network and the credentials of this machine"
                    ) from error
                self._sleep(FIRST_WAIT_S * 2**attempt)
            else:
                self._position += len(content)
                return content
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Let go of the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> "RemoteFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def _filesystem(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise DataError(
            f"{scheme}:// needs the package {LIBRARIES[scheme]}: pip install 'facescale[{scheme}]'"
        ) from error


def _path(address: Address) -> str:
    """As fsspec's file systems want it; they take the scheme off again where they do not."""
    return f"{address.host}{address.path}"


def _kind(error: Exception) -> str:
    """What kind of error it is; its text only where we wrote it."""
    if isinstance(error, AnswerError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return f"{name}: {os.strerror(error.errno or 0)}"
    return name
