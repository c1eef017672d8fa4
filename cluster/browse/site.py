"""Which page or picture an address means, and what every answer says of how to treat it.

Pages and stored pictures are made by one thread, views of the network by another, so that the first
of those, which waits for DALI, holds up nothing else.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from textwrap import wrap
from typing import TYPE_CHECKING, TypeVar, get_args

from cluster.browse.door import Door
from cluster.browse.faces import face, reason
from cluster.browse.identities import identity, identity_list
from cluster.browse.layout import heading
from cluster.browse.links import Selection, Treatment
from cluster.browse.overview import overview
from cluster.browse.pairs import Kind, pair_list
from cluster.browse.query import BadQueryError, Query
from cluster.browse.shown import Shown
from cluster.browse.style import ICON, STYLE
from cluster.connections import Answer, Request
from data_pipeline.browse import Order
from data_pipeline.browse_images import png
from data_pipeline.errors import DataError
from data_pipeline.presets import PRESETS
from data_pipeline.shards import BadSampleError
from trainer.report_html import Html, tag

if TYPE_CHECKING:  # imports torch and DALI, which the first view needs
    from data_pipeline.browse_views import Views

COMMON = (
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
"""Headers of every answer: kept nowhere, embedded nowhere, no script, nothing from elsewhere."""

THUMBNAIL = 224  # pixels: sharp on fine screens
MOST_EPOCH = 1_000_000_000

T = TypeVar("T")


class NotThereError(LookupError):
    """An address that means nothing here."""


class Site:
    """Answers the requests that a door lets in."""

    def __init__(self, shown: Shown, door: Door, *, image_size: int) -> None:
        self._shown = shown
        self._door = door
        self._image_size = image_size
        self._views: Views | None = None
        self._reading = ThreadPoolExecutor(1, "reading")
        self._viewing = ThreadPoolExecutor(1, "viewing")

    async def answer(self, request: Request) -> Answer:
        """What a request gets."""
        stopped = self._door.stop(request)
        if stopped is not None:
            return stopped
        try:
            return await self._found(
                request.path.removeprefix(self._door.root).split("/"), Query(request.query)
            )
        except NotThereError as error:
            return self._problem(HTTPStatus.NOT_FOUND, str(error))
        except BadQueryError as error:
            return self._problem(HTTPStatus.BAD_REQUEST, str(error))
        except DataError as error:
            return self._problem(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def close(self) -> None:
        """Wait for what is being made, and close all files."""
        self._reading.shutdown(cancel_futures=True)
        self._viewing.shutdown(cancel_futures=True)
        self._shown.pictures.close()
        if self._views is not None:
            self._views.close()

    async def _found(self, path: list[str], query: Query) -> Answer:
        shown = self._shown
        page = query.number("page", 1, least=1)
        match path:
            case [""]:
                return await self._page(overview, shown)
            case ["style.css"]:
                return Answer(HTTPStatus.OK, STYLE.encode(), "text/css; charset=utf-8")
            case ["icon.svg"]:
                return Answer(HTTPStatus.OK, ICON.encode(), "image/svg+xml")
            case ["find"]:
                return self._find(query)
            case ["identities"]:
                return await self._page(identity_list, shown, _selection(query), page)
            case ["identity", text]:
                label = _number(text, shown.dataset.num_identities, "identity")
                return await self._page(identity, shown, label, page)
            case ["face", text]:
                return await self._page(face, shown, self._sample(text), _treatment(query))
            case ["pairs"] if shown.pairs is not None:
                kind: Kind = query.choice("kind", get_args(Kind), "all")
                fold = query.maybe_number("fold")
                return await self._page(pair_list, shown, shown.pairs, kind, fold, page)
            case ["thumbnail", text]:
                sample = self._sample(text)
                make = partial(shown.pictures.thumbnail, sample, side=THUMBNAIL)
                return await self._picture(self._reading, make, "image/jpeg")
            case ["view", text]:
                make = partial(self._view, self._sample(text), _treatment(query))
                return await self._picture(self._viewing, make, "image/png")
        raise NotThereError("There is no such page.")

    def _find(self, query: Query) -> Answer:
        """To the identity or the image of a number, or to the identities of a name."""
        text, links = query.text("search"), self._shown.links
        if query.choice("as", ("identity", "image"), "identity") == "image":
            return _see_other(links.face(self._sample(text)))
        if text.isascii() and text.isdigit() and not self._shown.frame.shows_names:
            count = self._shown.dataset.num_identities
            return _see_other(links.identity(_number(text, count, "identity")))
        return _see_other(links.identities(Selection(search=text)))

    def _sample(self, text: str) -> int:
        return _number(text, self._shown.dataset.num_samples, "image")

    def _view(self, sample: int, treatment: Treatment) -> bytes:
        from data_pipeline.browse_views import Views
        from data_pipeline.decode import UndecodableError

        if self._views is None:
            self._views = Views(self._shown.dataset, image_size=self._image_size)
        try:
            return png(self._views.view(sample, **treatment._asdict()))
        except UndecodableError as error:
            raise BadSampleError(sample, "decode") from error

    async def _page(self, make: Callable[..., bytes], *arguments: object) -> Answer:
        body = await _in(self._reading, partial(make, *arguments))
        return Answer(HTTPStatus.OK, body, "text/html; charset=utf-8")

    async def _picture(
        self, thread: ThreadPoolExecutor, make: Callable[[], bytes], content_type: str
    ) -> Answer:
        try:
            return Answer(HTTPStatus.OK, await _in(thread, make), content_type)
        except (BadSampleError, DataError) as error:
            return Answer(HTTPStatus.OK, _stand_in(reason(error)).encode(), "image/svg+xml")

    def _problem(self, status: HTTPStatus, words: str) -> Answer:
        page = self._shown.frame.page(status.phrase, heading(status.phrase, words))
        return Answer(status, page, "text/html; charset=utf-8")


async def _in(thread: ThreadPoolExecutor, make: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, make)


def _number(text: str, count: int, what: str) -> int:
    """A number below `count` out of an address."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) < count):
        raise NotThereError(f"There is no such {what}: they are numbered from 0 to {count - 1:,}.")
    return int(text)


def _selection(query: Query) -> Selection:
    order: Order = query.choice("order", get_args(Order), "label")
    return Selection(
        order=order,
        at_least=query.number("at_least", 0),
        at_most=query.maybe_number("at_most"),
        search=query.text("search"),
    )


def _treatment(query: Query) -> Treatment:
    return Treatment(
        preset=query.choice("preset", tuple(PRESETS), "adaface"),
        epoch=query.number("epoch", 0, most=MOST_EPOCH),
        seed=query.number("seed", 0),
    )


def _see_other(address: str) -> Answer:
    return Answer(HTTPStatus.SEE_OTHER, b"", headers=(("Location", address),))


def _stand_in(words: str) -> Html:
    """A picture that says why there is none."""
    lines = ["cannot be used:", *wrap(words, 20)]
    top = 60 - 6 * len(lines)
    return tag(
        "svg",
        tag("rect", width=112, height=112, fill="#fbeae6"),
        *(tag("text", line, x=56, y=top + 12 * n, fill="#b4442f") for n, line in enumerate(lines)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 112 112",
        width=112,
        height=112,
        font_family="sans-serif",
        font_size=9,
        text_anchor="middle",
        role="img",
        aria_label=words,
    )
