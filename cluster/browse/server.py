"""Serves the pages of a dataset to one browser on this machine until it is told to end."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster.browse.door import Door
from cluster.browse.shown import Shown
from cluster.browse.site import COMMON, Site
from cluster.connections import Answer, Connections, Limits, Request, listen

HOST = "127.0.0.1"
LIMITS = Limits(
    connections=64,
    request_bytes=16384,  # browsers send the cookies of all servers of this machine
    read_s=5.0,
    answer_s=60.0,  # a shard may have to be fetched from far away
    write_s=20.0,
)
IDLE_S = 4 * 3600.0
"""Forgotten pages close: after so long without an answer that was more than a refusal."""


def serve(
    path: Path,
    *,
    port: int,
    with_names: bool,
    image_size: int | None,
    ready: Callable[[str], None],
    idle_s: float = IDLE_S,
) -> None:
    """Show a dataset until SIGINT or SIGTERM, or until nobody looks any more.

    Args:
        path: of a packed or indexed dataset, or a verification set
        port: on loopback; another free one where it is taken, and for 0
        with_names: whether names of identities are shown
        image_size: side of the faces that the network sees; that of the dataset, or else 112
        ready: called with the link once it can be opened
        idle_s: seconds without a page that end it

    Raises:
        DataError: it is no dataset, or a damaged one.
    """
    door = Door()
    shown = Shown.open(path, root=door.root, with_names=with_names)
    site = Site(shown, door, image_size=image_size or _side(shown))
    try:
        asyncio.run(_serve(site, door, port=port, ready=ready, idle_s=idle_s))
    finally:
        site.close()


def _side(shown: Shown) -> int:
    """The side of a dataset's square images, or that of most networks."""
    size = shown.dataset.image_size
    return size[0] if size is not None and size[0] == size[1] else 112


async def _serve(
    site: Site, door: Door, *, port: int, ready: Callable[[str], None], idle_s: float
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    last_seen = time.monotonic()

    async def answer(request: Request) -> Answer:
        nonlocal last_seen
        answered = await site.answer(request)
        if answered.status < 400:
            last_seen = time.monotonic()
        return answered

    listener = listen(HOST, port)
    server = await Connections(answer, common=COMMON, limits=LIMITS).serve(listener)
    ready(door.link(listener.getsockname()[1]))
    try:
        while not stop.is_set() and (left := last_seen + idle_s - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), left)
    finally:
        server.close()
