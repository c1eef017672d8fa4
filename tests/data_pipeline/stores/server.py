"""Object storage on loopback: what S3, Google's and Azure's servers answer to those who read tars.

Each speaks as much of its protocol as reading and listing takes, asks for the credentials that its
`environment` holds, and goes wrong as told. `serving(S3)` and the like start one.
"""

import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

SECRET = "c2VjcmV0LW9mLXRoZS1zdG9yYWdl"  # base64, as Azure's keys are; `secret-of-the-storage`
STAMP = "Sun, 22 Nov 2026 10:00:00 GMT"


class Asked(NamedTuple):
    """A request, in the words that all protocols share."""

    what: Literal["list", "look", "read"]
    name: str
    """`bucket/key`; of a listing, what the names must begin with."""
    range: tuple[int, int | None] | None = None
    """First and last byte."""
    after: int = 0
    """Names to leave out of a listing: those of the pages before."""


class Listed(NamedTuple):
    """A page of a listing."""

    bucket: str
    prefix: str
    objects: Sequence[tuple[str, int]]
    """(key, bytes)."""
    folders: Sequence[str]
    """With their `/`."""
    next: str
    """What asks for the next page; empty on the last."""


@dataclass
class Store:
    """What a server has and does; change it while it runs."""

    port: int
    environment: dict[str, str]
    """Variables with which the storage's own library finds this server and is let in."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """By `bucket/key`."""
    faults: dict[str, list[int]] = field(default_factory=dict)
    """Statuses to answer first, by name, one a request."""
    redirects: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """Break off after so many bytes of an object, one a read."""
    asked: list[Asked] = field(default_factory=list)
    page_size: int = 2
    """Names on a page of a listing."""

    def reads(self, name: str) -> list[tuple[int, int | None] | None]:
        """The ranges that were asked for of an object."""
        return [asked.range for asked in self.asked if asked[:2] == ("read", name)]


class Dialect(BaseHTTPRequestHandler):
    """One protocol; a subclass says how requests and answers are written in it."""

    timeout = 10

    @property
    def store(self) -> Store:
        """What the server has and does."""
        assert isinstance(self.server, _Server)
        return self.server.store

    @classmethod
    @abstractmethod
    def environment(cls, port: int, folder: Path) -> dict[str, str]:
        """Variables for the storage's library; files that they name are written to `folder`."""

    @abstractmethod
    def understood(self) -> Asked | None:
        """What a request asks for; `None` where it was answered already."""

    @abstractmethod
    def is_let_in(self) -> bool:
        """Whether the request has the credentials."""

    @abstractmethod
    def listing(self, page: Listed) -> tuple[str, bytes]:
        """(content type, body) of a page of names."""

    @abstractmethod
    def facts(self, name: str, content: bytes) -> tuple[dict[str, str], bytes]:
        """(headers, body) for who looks at an object without reading it."""

    @abstractmethod
    def fault(self, status: int) -> tuple[dict[str, str], bytes]:
        """(headers, body) of a refusal."""

    def do_GET(self) -> None:
        asked = self.understood()
        if asked is None:
            return
        store = self.store
        store.asked.append(asked)
        if asked.name in store.redirects:
            self.send(307, {"Location": store.redirects[asked.name]})
        elif not self.is_let_in():
            self._refuse(403)
        elif told := store.faults.get(asked.name):
            self._refuse(told.pop(0))
        elif asked.what == "list":
            kind, body = self.listing(_page(store, asked))
            self.send(200, {"Content-Type": kind}, body)
        elif asked.name not in store.objects:
            self._refuse(404)
        elif asked.what == "look":
            self.send(200, *self.facts(asked.name, store.objects[asked.name]))
        else:
            self._read(asked, store.objects[asked.name])

    do_HEAD = do_GET

    def _read(self, asked: Asked, content: bytes) -> None:
        store = self.store
        headers = self.facts(asked.name, content)[0]
        status, body = 200, content
        if asked.range is not None:
            first, last = asked.range
            last = min(len(content) - 1, len(content) if last is None else last)
            if first > last:
                return self._refuse(416)
            status, body = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        headers |= {"Content-Length": str(len(body)), "Content-Type": "application/octet-stream"}
        if store.cut_after:
            body = body[: store.cut_after.pop(0)]
        return self.send(status, headers, body)

    def _refuse(self, status: int) -> None:
        self.send(status, *self.fault(status))

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Answer; the body stays away where only its head was asked for."""
        self.send_response(status)
        length = {"Content-Length": str(len(body)), "Connection": "close"}
        for name, value in (length | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def path_parts(self) -> tuple[str, dict[str, str]]:
        """(path without its %-escapes, what follows `?`)."""
        parts = urlsplit(self.path)
        pairs = (pair.partition("=") for pair in parts.query.split("&") if pair)
        return unquote(parts.path), {name: unquote(value) for name, _, value in pairs}

    def range_asked(self, header: str = "Range") -> tuple[int, int | None] | None:
        """The bytes that a header asks for."""
        value = self.headers.get(header)
        if value is None:
            return None
        first, _, last = value.removeprefix("bytes=").partition("-")
        return int(first), int(last) if last else None

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(dialect: type[Dialect], folder: Path) -> Iterator[Store]:
    """A server, until the end of the block."""
    with _Server(("127.0.0.1", 0), dialect) as server:
        port = server.server_port
        server.store = Store(port=port, environment=dialect.environment(port, folder))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.store
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    store: Store

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


def _page(store: Store, asked: Asked) -> Listed:
    """The names directly below a prefix, a page of them."""
    bucket, _, prefix = asked.name.partition("/")
    found: dict[str, int | None] = {}
    for name, content in sorted(store.objects.items()):
        key = name.removeprefix(f"{bucket}/")
        if key != name and key.startswith(prefix):
            folder, slash, _ = key[len(prefix) :].partition("/")
            found[prefix + folder + slash] = None if slash else len(content)
    names = list(found)[asked.after : asked.after + store.page_size]
    end = asked.after + len(names)
    return Listed(
        bucket=bucket,
        prefix=prefix,
        objects=[(name, size) for name in names if (size := found[name]) is not None],
        folders=[name for name in names if found[name] is None],
        next=str(end) if end < len(found) else "",
    )
