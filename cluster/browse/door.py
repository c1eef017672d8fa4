"""Who may see the pages: the one browser that was given the link.

Everybody on a machine reaches its loopback, so the first link carries a random token. It works once
and is exchanged for a cookie by a redirect, so that it does not stay in the address. The cookie is
HttpOnly and SameSite=Strict, and holds for one random path: cookies ignore ports, and a server of
somebody else on another port would be handed it otherwise. Requests that another page caused
(Origin, Sec-Fetch-Site) or that reached this machine under a foreign name (Host: DNS rebinding) are
refused. All refusals look the same.
"""

import hmac
import re
import secrets
from http import HTTPStatus

from cluster.connections import Answer, Request

COOKIE = "facescale"
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII)  # any: tunnels
_REFUSED = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Not for this browser</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head><body><h1>Not for this browser</h1>
<p>This page is for the person who started <code>facescale data browse</code>.</p>
<p>Open the link that it printed in the address bar; it works once. Start it again for another.</p>
</body></html>
"""


class Door:
    """Lets in who brings the token, once, and then who brings the cookie it was exchanged for."""

    def __init__(self) -> None:
        self.root = f"/{secrets.token_hex(8)}/"
        """The path that all pages lie under."""
        self._token: str | None = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)

    def link(self, port: int) -> str:
        """The address to open first, on this machine's port."""
        return f"http://127.0.0.1:{port}{self.root}?token={self._token}"

    def stop(self, request: Request) -> Answer | None:
        """`None` for a request that may pass, otherwise the answer it gets."""
        if not _is_from_here(request) or not request.path.startswith(self.root):
            return _refusal()
        known = any(_equal(cookie, self._session) for cookie in _cookies(request))
        if request.path != self.root or not request.query.startswith("token="):
            return None if known else _refusal()
        if known:
            return self._redirect()
        if request.method != "GET" or not self._is_token(request.query):
            return _refusal()
        self._token = None
        cookie = f"{COOKIE}={self._session}; Path={self.root}; HttpOnly; SameSite=Strict"
        return self._redirect(("Set-Cookie", cookie))

    def _is_token(self, query: str) -> bool:
        return self._token is not None and _equal(query, f"token={self._token}")

    def _redirect(self, *headers: tuple[str, str]) -> Answer:
        return Answer(HTTPStatus.SEE_OTHER, b"", headers=(("Location", self.root), *headers))


def _is_from_here(request: Request) -> bool:
    host = request.headers.get("host", "")
    return (
        _HOST.fullmatch(host) is not None
        and request.headers.get("origin", f"http://{host}") == f"http://{host}"
        and request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    )


def _cookies(request: Request) -> list[str]:
    """The values of our cookie; others may have set more of its name."""
    pairs = (pair.strip().partition("=") for pair in request.headers.get("cookie", "").split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _refusal() -> Answer:
    return Answer(HTTPStatus.FORBIDDEN, _REFUSED, "text/html; charset=utf-8")
