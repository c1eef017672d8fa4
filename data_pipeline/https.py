"""Reading a file from a web server without being led to a place that nobody named.

Every host, also that of a redirect, is resolved first, and a connection goes to the very address
that was checked. Loopback, link-local and private addresses (a cloud's metadata service among
them) are refused unless the host is named in `private_hosts`; so are redirects to other schemes.
Where a redirect leads is never told: what follows its `?` is often a signature.
"""

import http.client
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from urllib.parse import urljoin, urlsplit

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError

MOST_REDIRECTS = 5
TIMEOUT_S = 60.0  # without a single byte
PIECE = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)
TRANSIENT = (408, 425, 429)  # and all of 5xx: worth another try
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in an IPv6 one


class AnswerError(OSError):
    """A server failed for now; the message is ours and tells no secret."""


class HttpsFile:
    """The bytes of a file on a web server from a place on; `open_https` makes one."""

    def __init__(self, response: http.client.HTTPResponse, connection: "_Connection") -> None:
        self._response = response
        self._connection = connection
        self._missing = response.length  # http.client does not tell a cut answer from an end

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; `AnswerError` where the answer ends before its announced length."""
        try:
            content = self._response.read(size)
        except http.client.HTTPException as error:
            raise AnswerError(f"the answer broke off ({type(error).__name__})") from error
        if self._missing is not None:
            self._missing -= len(content)
            if self._missing > 0 and not content and size:
                raise AnswerError(f"the answer broke off, {self._missing} bytes before its end")
        return content

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()

    def __enter__(self) -> "HttpsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def open_https(
    address: Address,
    *,
    start: int = 0,
    private_hosts: Collection[str] = (),
    context: ssl.SSLContext | None = None,
) -> HttpsFile:
    """Ask for the bytes of a file from `start` on.

    Args:
        address: an https address
        start: bytes to leave out, e.g. those that an earlier try has already brought
        private_hosts: names or numbers of hosts that may have an address in a private network
        context: which certificates are trusted; by default those of the machine

    Raises:
        DataError: another try would not help: not there, not allowed, a refused host.
        OSError: the network or the server failed for now.
    """
    url = str(address)
    for _ in range(MOST_REDIRECTS + 1):
        target = _checked(url, address)
        with ExitStack() as unless_accepted:
            connection = _Connection(target, private_hosts, context or _default_context())
            unless_accepted.callback(connection.close)
            response = connection.ask(target, start)
            unless_accepted.callback(response.close)  # a closed connection may leave it open
            if response.status not in REDIRECTS:
                file = _accepted(response, connection, address, start)
                unless_accepted.pop_all()
                return file
            url = urljoin(url, response.headers.get("Location", ""))
    raise DataError(f"{address} redirects more than {MOST_REDIRECTS} times")


@dataclass(frozen=True, kw_only=True)
class _Target:
    host: str
    port: int
    path: str
    address: Address
    """What was asked for, for messages: the target may hold a signature."""


def _checked(url: str, address: Address) -> _Target:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise DataError(f"{address} redirects to what is no address") from None
    if parts.scheme != "https" or not host:
        raise DataError(f"{address} redirects to an address that is not https")
    if parts.username is not None or parts.password is not None:
        raise DataError(f"{address} redirects to an address with a name or password")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or re.search(r"[\x00-\x20\x7f]", path):
        path = "".join(c if "!" <= c <= "~" else _percent(c) for c in path)
    return _Target(host=host, port=port or 443, path=path, address=address)


def _default_context() -> ssl.SSLContext:
    return _machines_certificates(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _machines_certificates(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """OpenSSL looks at the two variables itself; reading all certificates takes it 20 ms."""
    return ssl.create_default_context()


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "replace"))


def _accepted(
    response: http.client.HTTPResponse, connection: "_Connection", address: Address, start: int
) -> HttpsFile:
    status = response.status
    if status in TRANSIENT or status >= 500:
        raise AnswerError(f"the server answers {status}")
    if status in (401, 403):
        raise DataError(f"{address} may not be read (the server answers {status})")
    if status == 416:  # nothing after `start`: what came before was longer than the file is
        raise DataError(f"{address} has no byte {start}: it changed since it was indexed")
    if status not in (200, 206) or (status == 206 and not start):
        raise DataError(f"{address} cannot be read (the server answers {status})")
    file = HttpsFile(response, connection)
    if status == 206 and not (response.headers.get("Content-Range") or "").startswith(
        f"bytes {start}-"
    ):
        raise DataError(f"{address}: the server answers with another part than asked for")
    if status == 200:  # a server that knows no ranges
        while start:
            piece = file.read(min(start, PIECE))
            if not piece:
                raise DataError(f"{address} is shorter than it was when it was indexed")
            start -= len(piece)
    return file


class _Connection(http.client.HTTPSConnection):
    """A connection to a number that was checked, with the certificate of the name."""

    def __init__(
        self, target: _Target, private_hosts: Collection[str], context: ssl.SSLContext
    ) -> None:
        super().__init__(target.host, target.port, timeout=TIMEOUT_S, context=context)
        self._tls = context
        self._target = target
        self._private_is_allowed = target.host in {host.lower() for host in private_hosts}

    def connect(self) -> None:
        """Resolve, check and connect; called by `request`."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        numbers = [str(entry[4][0]) for entry in found]
        if not self._private_is_allowed:
            for number in numbers:
                if not is_public(number):
                    raise DataError(
                        f"{self._target.address}: the host {self._target.host!r} has the address "
                        f"{number}, which is not public; if it is meant, name the host in "
                        "FACESCALE_PRIVATE_HOSTS"
                    )
        last: OSError = OSError("no address")
        for number in numbers:
            try:
                plain = socket.create_connection((number, self.port), self.timeout)
            except OSError as error:
                last = error
                continue
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
            return
        raise last

    def ask(self, target: _Target, start: int) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "facescale"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            self.request("GET", target.path, headers=headers)
            return self.getresponse()
        except ssl.SSLCertVerificationError as error:
            raise DataError(
                f"{target.address}: the certificate of {target.host!r} is not accepted "
                f"({error.verify_message})"
            ) from error
        except http.client.HTTPException as error:
            raise AnswerError(f"the server's answer is no HTTP ({type(error).__name__})") from error


def is_public(number: str) -> bool:
    """Whether an IP address is one of the open internet, looked at through IPv6's wrappings."""
    ip = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
