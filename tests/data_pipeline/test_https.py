"""Web servers are read with care: whole or not, and never somewhere that nobody named."""

import socket

import pytest

from data_pipeline import https
from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.https import AnswerError, is_public, open_https
from tests.data_pipeline.web import serving

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("web")) as web:
        yield web


@pytest.fixture
def web(server):
    server.files = {"/a.tar": CONTENT}
    server.redirects, server.statuses, server.cut_after, server.asked = {}, {}, [], []
    server.ranges = True
    return server


def read(web, path="/a.tar", *, start=0, private_hosts=("localhost",), address=None):
    with open_https(
        address or web.address(path),
        start=start,
        private_hosts=private_hosts,
        context=web.trusting,
    ) as file:
        return b"".join(iter(lambda: file.read(1000), b""))


def test_a_file_is_read_whole_and_from_any_place_on(web):
    assert read(web) == CONTENT
    assert read(web, start=10_000) == CONTENT[10_000:]
    assert web.asked == [("/a.tar", None), ("/a.tar", "bytes=10000-")]


def test_a_server_without_ranges_is_read_over(web):
    web.ranges = False
    assert read(web, start=3_000) == CONTENT[3_000:]


def test_an_answer_that_breaks_off_is_no_end(web):
    web.cut_after = [5_000]
    with pytest.raises(AnswerError, match="broke off"):
        read(web)


def test_a_host_on_loopback_is_refused_unless_named(web):
    with pytest.raises(DataError, match=r"the address (127.0.0.1|::1), which is not public.*name"):
        read(web, private_hosts=())
    assert web.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/secret",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]:{port}/secret",
        "https://[::ffff:127.0.0.1]:{port}/secret",
        "https://2130706433:{port}/secret",
        "https://10.0.0.1/secret",
        "https://0.0.0.0:{port}/secret",
    ],
)
def test_a_redirect_into_this_machine_or_a_private_network_is_refused(web, target):
    web.redirects["/a.tar"] = target.format(port=web.port) + "?signature=hidden"
    with pytest.raises(DataError, match="not public") as caught:
        read(web)
    assert "hidden" not in str(caught.value)
    assert web.asked == [("/a.tar", None)]


def test_a_name_that_leads_to_a_private_address_is_refused_for_what_it_leads_to(web, monkeypatch):
    def resolve(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.168.1.7", port))]

    monkeypatch.setattr(https.socket, "getaddrinfo", resolve)
    with pytest.raises(DataError, match=r"'innocent.example' has the address 192.168.1.7"):
        read(web, address=Address.parse("https://innocent.example/a.tar"))


def test_a_redirect_to_a_named_host_is_followed(web):
    web.redirects["/old.tar"] = "/a.tar?token=1"
    web.files["/a.tar?token=1"] = b"new"
    assert read(web, "/old.tar") == b"new"
    web.redirects["/old.tar"] = f"https://127.0.0.1:{web.port}/a.tar"
    assert read(web, "/old.tar", private_hosts=("localhost", "127.0.0.1")) == CONTENT


@pytest.mark.parametrize(
    "target",
    ["http://localhost/a.tar", "file:///etc/passwd", "https://me:pass@localhost/a.tar", "gopher:"],
)
def test_a_redirect_to_another_scheme_or_with_a_password_is_refused(web, target):
    web.redirects["/a.tar"] = target
    with pytest.raises(DataError, match="redirects to an address"):
        read(web)


def test_redirects_in_a_circle_end(web):
    web.redirects["/a.tar"] = "/a.tar"
    with pytest.raises(DataError, match="redirects more than 5 times"):
        read(web)


def test_a_certificate_that_nobody_trusts_is_refused(web):
    with pytest.raises(DataError, match="certificate of 'localhost' is not accepted"):
        open_https(web.address("/a.tar"), private_hosts=("localhost",))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, DataError), (403, DataError), (404, DataError), (500, OSError), (429, OSError)],
)
def test_a_refusal_is_final_and_an_overloaded_server_is_not(web, status, kind):
    web.statuses["/a.tar"] = [status]
    with pytest.raises(kind, match=str(status)):
        read(web)


def test_a_file_that_became_shorter_is_noticed(web):
    with pytest.raises(DataError, match="changed since it was indexed"):
        read(web, start=len(CONTENT) + 5)
    web.ranges = False
    with pytest.raises(DataError, match="shorter"):
        read(web, start=len(CONTENT) + 5)


@pytest.mark.parametrize(
    "number",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:0001::",
    ],
)
def test_addresses_of_this_machine_and_of_private_networks_are_not_public(number):
    assert not is_public(number)


@pytest.mark.parametrize("number", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_of_the_internet_are_public(number):
    assert is_public(number)
