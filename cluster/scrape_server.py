"""A very small HTTP server for metrics that a hostile or broken client cannot take down.

One thread, whole connections bounded in number, size and time; it answers GET and HEAD of
`/metrics` and `/healthz` and nothing else. When all places are taken the oldest connection is
dropped, so clients that open sockets and say nothing never keep a real scrape out.
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format

TIMEOUT_S = 5.0
"""For a whole connection, from accepting it to its last byte."""

MAX_CONNECTIONS = 128
MAX_REQUEST_BYTES = 8192  # Prometheus sends about 300
FRESH_S = 0.25
"""A rendering this young is served again: a thousand scrapes a second cost four renderings."""

_log = logging.getLogger(__name__)


def listen(bind: str, port: int) -> socket.socket:
    """A listening socket on this port or, where it is taken, on another free one."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    listener = socket.create_server((bind, 0), family=family, backlog=MAX_CONNECTIONS)
    _log.warning("port %d is in use; listening on %d instead", port, listener.getsockname()[1])
    return listener


class ScrapeServer:
    """Serves what `render` returns; `render` runs in another thread, once at a time."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._rendering: asyncio.Future[bytes] | None = None
        self._rendered_at = 0.0
        self._open: dict[asyncio.StreamWriter, None] = {}

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Begin to answer on a listening socket."""
        return await asyncio.start_server(self._answer, sock=listener, limit=MAX_REQUEST_BYTES)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = None
        # a write buffer of nothing: drain() then waits until the client took every byte
        writer.transport.set_write_buffer_limits(high=0)
        try:
            with suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIMEOUT_S):
                    writer.write(await self._response(reader))
                    await writer.drain()
                    writer.close()
        finally:
            self._open.pop(writer, None)
            if not writer.is_closing():
                writer.transport.abort()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _message(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        match head.partition(b"\r\n")[0].split(b" "):
            case [method, target, (b"HTTP/1.1" | b"HTTP/1.0")]:
                pass
            case _:
                return _message(HTTPStatus.BAD_REQUEST)
        if method not in (b"GET", b"HEAD"):
            return _message(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        match target.partition(b"?")[0]:
            case b"/metrics":
                body = await self._metrics()
            case b"/healthz":
                body = b"ok\n"
            case _:
                return _message(HTTPStatus.NOT_FOUND)
        return _message(HTTPStatus.OK, body, with_body=method == b"GET")

    async def _metrics(self) -> bytes:
        waiting = self._rendering
        stale = time.monotonic() - self._rendered_at > FRESH_S
        if waiting is None or (waiting.done() and stale):
            loop = asyncio.get_running_loop()
            waiting = self._rendering = loop.run_in_executor(None, self._render)
            self._rendered_at = time.monotonic()
        return await asyncio.shield(waiting)


def _message(
    status: HTTPStatus, body: bytes | None = None, *, with_body: bool = True, extra: str = ""
) -> bytes:
    body = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{extra}"
        "X-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
