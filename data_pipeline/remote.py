"""Reading tars that lie elsewhere: object storage through fsspec, web servers through `https`.

Credentials are found by the storage's own library (its environment, files, the machine's role);
nothing here takes, keeps or prints any, and of a library's error only its kind is told, because
its text may hold a signed address. What fails for now is tried again, and a read that breaks off is
taken up where it broke off.
"""

import os
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from data_pipeline.addresses import OBJECT_STORES, Address
from data_pipeline.errors import DataError
from data_pipeline.https import open_https
from data_pipeline.object_stores import filesystem as filesystem_of
from data_pipeline.patience import Patience

PRIVATE_HOSTS = "FACESCALE_PRIVATE_HOSTS"
BLOCK_BYTES = 8 << 20  # of one request to object storage: large enough to hide its latency


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
            filesystem: what makes fsspec's file system of a scheme; by default `object_stores`
            sleep: waits so many seconds before another try
        """
        self._private_hosts = tuple(private_hosts)
        self._context = context
        self._filesystem = filesystem or filesystem_of
        self._patience = Patience(sleep)

    @classmethod
    def of_node(cls, environ: Mapping[str, str] = os.environ) -> "Remote":
        """As this machine is set up: `FACESCALE_PRIVATE_HOSTS` names hosts, with commas between."""
        names = environ.get(PRIVATE_HOSTS, "").split(",")
        return cls(private_hosts=[name.strip() for name in names if name.strip()])

    def open(self, address: Address, *, start: int = 0) -> "RemoteFile":
        """The bytes of a file from `start` on."""
        return RemoteFile(address, start, connect=self._connect, patience=self._patience)

    def tars_below(self, address: Address) -> list[Address]:
        """The addresses of the `.tar` files in a folder of object storage, sorted."""
        if address.scheme not in OBJECT_STORES:
            raise DataError(f"{address} cannot be listed; write its tars' addresses into a file")
        names = self._patience.ask(
            lambda: self._filesystem(address.scheme).ls(_path(address).rstrip("/"), detail=False),
            address,
        )
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
        patience: Patience,
    ) -> None:
        self._address = address
        self._position = start
        self._connect = connect
        self._patience = patience
        self._stream: _Stream | None = None

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end.

        Raises:
            DataError: the file is not there, may not be read, or failed again and again.
        """
        content = self._patience.ask(lambda: self._read(size), self._address, failed=self.close)
        self._position += len(content)
        return content

    def _read(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = self._connect(self._address, self._position)
        return self._stream.read(size)

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


def _path(address: Address) -> str:
    """As fsspec's file systems want it; they take the scheme off again where they do not."""
    return f"{address.host}{address.path}"
