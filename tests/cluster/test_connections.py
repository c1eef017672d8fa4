"""Connections that break the rules, or never end, take nothing away from the others."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.connections import Answer, Connections, Limits, listen

COMMON = (("Cache-Control", "no-store"), ("X-Common", "1"))
LARGE = 16 << 20  # bytes: more than all buffers on the way
PATIENCE_S = 20
LIMITS = Limits(connections=64, request_bytes=16384, read_s=5.0, answer_s=60.0, write_s=20.0)


async def answer(request):
    match request.path:
        case "/fails":
            raise ZeroDivisionError
        case "/waits":
            await asyncio.sleep(PATIENCE_S)
        case "/large":
            return Answer(HTTPStatus.OK, bytes(LARGE))
    lines = [request.method, request.path, request.query, *sorted(request.headers.items())]
    return Answer(HTTPStatus.OK, "\n".join(map(str, lines)).encode(), headers=(("X-Own", "2"),))


@contextmanager
def served(limits=LIMITS):
    """The port of a server with the handler above, in a thread of its own."""
    loop = asyncio.new_event_loop()
    listener = listen("127.0.0.1", 0)
    stop = asyncio.Event()

    async def run():
        server = await Connections(answer, common=COMMON, limits=limits).serve(listener)
        await stop.wait()
        server.close()
        # those that are still open, in a moment
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def is_closed(client):
    """Whether the server ended a connection; waits for it."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def port():
    with served() as number:
        yield number


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def ask(port, request):
    with connect(port) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_request_arrives_whole_and_every_answer_has_the_common_headers(port):
    request = b"GET /a/b?c=d HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\ncookie:  b=2 \r\n\r\n"
    head, _, body = ask(port, request).partition(b"\r\n\r\n")
    assert body.decode().splitlines() == [
        "GET",
        "/a/b",
        "c=d",
        "('cookie', 'a=1; b=2')",
        "('host', 'x')",
    ]
    status, *headers = head.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert {"Cache-Control: no-store", "X-Common: 1", "X-Own: 2", "Connection: close"} < {*headers}
    for broken in (b"POST / HTTP/1.1\r\n\r\n", b"x\r\n\r\n", b"GET /fails HTTP/1.1\r\n\r\n"):
        assert b"X-Common: 1\r\n" in ask(port, broken)


def test_a_head_request_gets_the_length_and_no_body(port):
    head, _, body = ask(port, b"HEAD /large HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert f"Content-Length: {LARGE}".encode() in head
    assert body == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE / HTTP/1.1\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nOrigin: a\r\nORIGIN: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 2 * LIMITS.request_bytes, 431),
        (b"GET /fails HTTP/1.1\r\n\r\n", 500),
    ],
)
def test_what_is_no_request_is_answered_and_the_next_one_works(port, request_, status):
    assert ask(port, request_).split(b" ")[1] == str(status).encode()
    assert ask(port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@given(
    st.binary(max_size=60),
    st.sampled_from([b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\n", b"HEAD /x?", b""]),
    st.integers(0, 40),
)
def test_any_bytes_get_one_of_the_answers_there_are(port, noise, around, place):
    request_ = around[:place] + noise + around[place:] + b"\r\n\r\n"
    assert ask(port, request_)[:13] in {
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 400 ",
        b"HTTP/1.1 405 ",
        b"HTTP/1.1 500 ",
    }


def test_silent_connections_keep_nobody_out():
    with served(LIMITS._replace(read_s=2 * PATIENCE_S)) as port:  # as long as they like
        held = [connect(port) for _ in range(3 * LIMITS.connections)]
        try:
            for client in held[::2]:
                client.sendall(b"GET /x HTT")
            assert ask(port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            assert all(is_closed(client) for client in held[: 2 * LIMITS.connections]), "the oldest"
        finally:
            for client in held:
                client.close()


def test_a_client_that_stops_in_mid_request_is_dropped():
    with served(LIMITS._replace(read_s=0.1)) as port, connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost")
        assert client.recv(1) == b""


def test_a_client_that_takes_no_answer_is_dropped():
    with served(LIMITS._replace(write_s=0.1)) as port, connect(port) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        time.sleep(0.5)  # the server gives up meanwhile
        taken = 0
        try:
            while part := client.recv(1 << 20):
                taken += len(part)
        except ConnectionResetError:
            pass
        assert taken < LARGE


def test_a_page_that_takes_too_long_is_given_up():
    with served(LIMITS._replace(answer_s=0.1)) as port:
        assert ask(port, b"GET /waits HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")
