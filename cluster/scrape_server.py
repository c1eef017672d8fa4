"""A node's numbers for Prometheus: `/metrics` and `/healthz`, and nothing else."""

import asyncio
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from cluster.connections import Answer, Connections, Limits, Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
COMMON = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
LIMITS = Limits(
    connections=128,
    request_bytes=8192,  # Prometheus sends about 300
    read_s=5.0,
    answer_s=5.0,
    write_s=5.0,
)

FRESH_S = 0.25
"""A rendering this young is served again: a thousand scrapes a second cost four renderings."""


class ScrapeServer:
    """Serves what `render` returns; `render` runs in another thread, once at a time."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render
        self._rendering: asyncio.Future[bytes] | None = None
        self._rendered_at = 0.0

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Begin to answer on a listening socket."""
        return await Connections(self._answer, common=COMMON, limits=LIMITS).serve(listener)

    async def _answer(self, request: Request) -> Answer:
        match request.path:
            case "/metrics":
                return Answer(HTTPStatus.OK, await self._metrics(), CONTENT_TYPE)
            case "/healthz":
                return Answer(HTTPStatus.OK, b"ok\n")
        return Answer(HTTPStatus.NOT_FOUND, b"Not Found\n")

    async def _metrics(self) -> bytes:
        waiting = self._rendering
        stale = time.monotonic() - self._rendered_at > FRESH_S
        if waiting is None or (waiting.done() and stale):
            loop = asyncio.get_running_loop()
            waiting = self._rendering = loop.run_in_executor(None, self._render)
            self._rendered_at = time.monotonic()
        return await asyncio.shield(waiting)
