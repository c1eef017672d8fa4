"""The pages of a dataset are for one browser: every rule of the door, by itself."""

import re
from typing import Any

import pytest

from cluster.browse.door import Door
from cluster.connections import Request

HOST = "127.0.0.1:8123"


def ask(door, path="", *, query="", method="GET", **headers) -> Any:
    """What the door says to a request of ours, changed as a test wants it."""
    given = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {name: value for name, value in given.items() if value is not None}
    return door.stop(Request(method, f"{door.root}{path}", query, fields))


def token_of(door):
    return door.link(8123).partition("?")[2]


def enter(door):
    """The cookie that the link is exchanged for."""
    (cookie,) = (v for k, v in ask(door, query=token_of(door)).headers if k == "Set-Cookie")
    return cookie.partition(";")[0]


@pytest.fixture
def door():
    return Door()


def test_the_link_leads_to_loopback_and_differs_each_time():
    links = {Door().link(8123) for _ in range(50)}
    assert len(links) == 50
    for link in links:
        assert re.fullmatch(
            r"http://127\.0\.0\.1:8123/[0-9a-f]{16}/\?token=[A-Za-z0-9_-]{43}", link
        ), "256 random bits"


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(door):
    answer = ask(door, query=token_of(door))
    assert answer.status == 303
    headers = dict(answer.headers)
    assert headers["Location"] == door.root
    value, *attributes = headers["Set-Cookie"].split("; ")
    assert sorted(attributes) == ["HttpOnly", f"Path={door.root}", "SameSite=Strict"]
    assert token_of(door).removeprefix("token=") not in value
    assert ask(door, cookie=value) is None


def test_the_token_works_once(door):
    token = token_of(door)
    cookie = enter(door)
    again = ask(door, query=token)
    assert again.status == 403
    assert not again.headers
    assert ask(door, query=token, cookie=cookie).status == 303, "the same browser, a reload"


@pytest.mark.parametrize("query", ["token=", "token=x", "token", "", "other=1", "token=None"])
def test_a_wrong_token_is_refused_and_uses_nothing_up(door, query):
    assert ask(door, query=query).status == 403
    assert ask(door, query=f"{token_of(door)}x").status == 403
    assert ask(door, query=token_of(door), method="HEAD").status == 403
    assert ask(door, query=token_of(door)).status == 303
    assert ask(door, query="token=None").status == 403


@pytest.mark.parametrize("path", ["", "style.css", "thumbnail/0", "view/0", "identity/0", "x/../y"])
def test_nothing_is_shown_without_the_cookie_and_refusals_tell_nothing(door, path):
    enter(door)
    refused = ask(door, path)
    assert refused == ask(door, "no such page") == ask(door, query="token=x")
    assert refused.status == 403
    assert ask(door, path, method="HEAD").status == 403


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "facescale=",
        "facescale",
        "facescale=x",
        "other={}",
        "facescalex={}",
        "={}",
        "facescale=é",
    ],
)
def test_only_our_cookie_counts(door, cookie):
    value = enter(door).partition("=")[2]
    assert ask(door, cookie=cookie.format(value)).status == 403


def test_cookies_of_others_do_not_matter(door):
    cookie = enter(door)
    assert ask(door, cookie=f"_xsrf=2; facescale=theirs; {cookie}; session=1") is None


@pytest.mark.parametrize("path", ["/", "/style.css", "/favicon.ico", "//", "/../", "*"])
def test_paths_beside_the_random_one_do_not_exist_for_anybody(door, path):
    cookie = enter(door)
    request = Request("GET", path, "", {"host": HOST, "cookie": cookie})
    stopped = door.stop(request)
    assert stopped is not None
    assert stopped.status == 403


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "evil.example", "127.0.0.1.evil.example", "evil.example:8123", "127.0.0.2"),
        *("localhost.", "127.0.0.1:", "127.0.0.1:80:80", "127.0.0.1@evil", "127.0.0.1 ", "0.0.0.0"),
    ],
)
def test_a_foreign_name_for_this_machine_is_refused(door, host):
    cookie = enter(door)
    assert ask(door, cookie=cookie, host=host).status == 403, "DNS rebinding"
    new = Door()
    assert ask(new, query=token_of(new), host=host).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:9000", "[::1]:9000"])
def test_a_tunnel_may_end_at_any_port(door, host):
    cookie = enter(door)
    assert ask(door, cookie=cookie, host=host) is None
    assert ask(door, cookie=cookie, host=host, origin=f"http://{host}") is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://127.0.0.1:1",
        "https://127.0.0.1:8123",
        "http://localhost:8123",
        "http://e",
    ],
)
def test_requests_of_other_pages_are_refused_by_their_origin(door, origin):
    assert ask(door, cookie=enter(door), origin=origin).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
def test_requests_of_other_pages_are_refused_by_what_the_browser_says_of_them(door, site):
    assert ask(door, query=token_of(door), sec_fetch_site=site).status == 403
    cookie = enter(door)
    assert ask(door, cookie=cookie, sec_fetch_site=site).status == 403
    for own in ("none", "same-origin"):
        assert ask(door, cookie=cookie, sec_fetch_site=own) is None


def test_two_servers_do_not_accept_each_others_cookies(door):
    other = Door()
    assert ask(door, cookie=enter(other)).status == 403
