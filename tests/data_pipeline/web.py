"""A web server on loopback with a certificate of its own, whose answers can go wrong."""

import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from data_pipeline.addresses import Address


@dataclass
class Web:
    """What the server has and does; change it while it runs."""

    port: int
    trusting: ssl.SSLContext
    """Trusts this server and nobody else."""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Answers to give first, one a request."""
    cut_after: list[int] = field(default_factory=list)
    """Break off after so many bytes of a file, one a request."""
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of every request."""
    before_answer: Callable[[], None] = lambda: None

    def address(self, path: str) -> Address:
        return Address.parse(f"https://localhost:{self.port}{path}")


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """The server, until the end of the block; its certificate is for `localhost`."""
    certificate, key = _certificate(folder)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate, key)
    ours = ssl.create_default_context(cafile=str(certificate))
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.socket = theirs.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.web = Web(port=server.server_port, trusting=ours)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.web
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    web: Web

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        web = self.server.web
        web.before_answer()
        web.asked.append((self.path, self.headers.get("Range")))
        if self.path in web.redirects:
            self._head(302, {"Location": web.redirects[self.path]})
        elif web.statuses.get(self.path):
            self._head(web.statuses[self.path].pop(0), {})
        elif self.path not in web.files:
            self._head(404, {})
        else:
            self._send(web, web.files[self.path])

    def _send(self, web: Web, content: bytes) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and web.ranges else 0
        if start and start >= len(content):
            self._head(416, {})
            return
        length = {"Content-Length": str(len(content) - start)}
        if start:
            place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._head(206, length | place)
        else:
            self._head(200, length)
        body = content[start:]
        self.wfile.write(body[: web.cut_after.pop(0)] if web.cut_after else body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0", "Connection": "close"} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths
