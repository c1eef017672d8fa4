"""HTTP connections that a hostile or broken client cannot take the server down with.

One thread; connections bounded in number, in size and in time; one request each, answered by a
function. When all places are taken the oldest connection is dropped, so clients that open sockets
and say nothing keep nobody out. What is asked for and who may ask is not decided here.
"""

import asyncio
import errno
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import NamedTuple

BACKLOG = 128

_HEADER = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff]*)"
)  # RFC 9110, 5.5
_ONCE = ("host", "origin", "sec-fetch-site")

_log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """What a server spends on its clients."""

    connections: int
    """At once."""
    request_bytes: int
    read_s: float
    """Seconds until a request is complete."""
    answer_s: float
    """Seconds until it has an answer."""
    write_s: float
    """Seconds until the client took all of it."""


class Request(NamedTuple):
    """What is asked for."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """By name in small letters; several of one name with `; ` between, as cookies may come."""


class Answer(NamedTuple):
    """What a browser gets, beside the headers that all answers have."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request], Awaitable[Answer]]


def listen(bind: str, port: int) -> socket.socket:
    """A listening socket on this port or, where it is taken, on another free one."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    listener = socket.create_server((bind, 0), family=family, backlog=BACKLOG)
    _log.warning("port %d is in use; listening on %d instead", port, listener.getsockname()[1])
    return listener


class Connections:
    """Answers connections with what `handler` says; `common` are headers of every answer."""

    def __init__(
        self, handler: Handler, *, common: tuple[tuple[str, str], ...], limits: Limits
    ) -> None:
        self._handler = handler
        self._common = common
        self._limits = limits
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Begin to answer on a listening socket."""
        most = self._limits.request_bytes
        return await asyncio.start_server(self._converse, sock=listener, limit=most)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._limits.connections:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        # a write buffer of nothing: drain() then waits until the client took every byte
        writer.transport.set_write_buffer_limits(high=0)
        try:
            with suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self._limits.read_s):
                    request = await _request(reader)
                answer = request if isinstance(request, Answer) else await self._answer(request)
                without_body = isinstance(request, Request) and request.method == "HEAD"
                async with asyncio.timeout(self._limits.write_s):
                    writer.write(_encoded(answer, self._common, without_body=without_body))
                    await writer.drain()
                    writer.close()
        finally:
            self._open.pop(writer, None)
            if not writer.is_closing():
                writer.transport.abort()

    async def _answer(self, request: Request) -> Answer:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return await self._handler(request)
        except TimeoutError:
            return _message(HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:  # one that fails must not end the others
            _log.exception("an answer could not be made")
            return _message(HTTPStatus.INTERNAL_SERVER_ERROR)


async def _request(reader: asyncio.StreamReader) -> Request | Answer:
    """The request of a connection, or the answer to what is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return _message(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, *lines = head[:-4].split(b"\r\n")
    match first.split(b" "):
        case [method, target, (b"HTTP/1.1" | b"HTTP/1.0")] if target.startswith(b"/"):
            pass
        case _:
            return _message(HTTPStatus.BAD_REQUEST)
    if method not in (b"GET", b"HEAD"):
        return _message(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
    headers: dict[str, str] = {}
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None:
            return _message(HTTPStatus.BAD_REQUEST)
        name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1").strip()
        if name in headers and name in _ONCE:
            return _message(HTTPStatus.BAD_REQUEST)
        headers[name] = f"{headers[name]}; {value}" if name in headers else value
    path, _, query = target.decode("latin-1").partition("?")
    return Request(method.decode("ascii"), path, query, headers)


def _message(status: HTTPStatus, *headers: tuple[str, str]) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode(), headers=headers)


def _encoded(answer: Answer, common: tuple[tuple[str, str], ...], *, without_body: bool) -> bytes:
    fields = (
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        *common,
        *answer.headers,
        ("Connection", "close"),
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n{lines}\r\n".encode("ascii")
    return head if without_body else head + answer.body
