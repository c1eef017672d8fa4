"""`facescale data browse` as a process: what it prints, where it listens, how it ends."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster.sockets import listeners
from data_pipeline.pack import pack
from tests.cluster.browsing import browsing, start
from tests.data_pipeline.pictures import people


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return pack(people({"ann": 3, "bob": 2}), tmp_path_factory.mktemp("browse") / "faces")


def test_it_listens_on_loopback_alone_and_lets_in_who_has_the_link(dataset):
    with browsing(dataset.path) as served:
        (listener,) = listeners([served.process.pid])
        assert (listener.host, listener.port) == ("127.0.0.1", served.port)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(served.root, timeout=20)
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with visitor.open(served.link, timeout=20) as page:
            assert page.url == served.root, "the token has left the address"
            assert page.headers["Cache-Control"] == "no-store"
            assert b"5" in page.read()
        with visitor.open(f"{served.root}thumbnail/0", timeout=20) as picture:
            assert picture.headers["Content-Type"] == "image/jpeg"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_when_told_to(dataset, number):
    with browsing(dataset.path) as served:
        served.process.send_signal(number)
        assert served.process.wait(timeout=30) == 0
        assert served.process.communicate()[1] == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port), timeout=20)


def test_a_link_for_people_says_what_to_do_with_it(dataset):
    process = start(dataset.path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.stdout.readline() == "Open it; Ctrl-C ends it.\n"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_port_can_be_chosen_and_a_busy_one_means_another(dataset):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with browsing(dataset.path, f"--port={port}") as served:
            assert served.port != port
    with browsing(dataset.path, f"--port={port}") as served:
        assert served.port == port


IDLE = """
import sys
from pathlib import Path
from cluster.browse.server import serve
serve(Path(sys.argv[1]), port=0, with_names=False, image_size=None, ready=print, idle_s=0.2)
"""


def test_forgotten_pages_close_by_themselves(dataset):
    done = subprocess.run(
        [sys.executable, "-c", IDLE, str(dataset.path)], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.startswith(b"http://")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 1, "there is no dataset at nowhere"),
        (["gs://key:secret@bucket/faces"], 2, "make a dataset of what lies there first"),
        ([Path(__file__).parent], 1, "is not a packed dataset"),
        (["nowhere", "--port=65536"], 2, "--port is 65536"),
        (["nowhere", "--image-size=8"], 2, "--image-size is 8; it must be from 16 to 512"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(words, code, message):
    process = start(*words)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "secret" not in errors
    assert errors.count("\n") == 1
    assert message in errors
