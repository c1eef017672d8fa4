import ipaddress
import os
import random
import socket

import pytest

from cluster import sockets
from cluster.sockets import Listener


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("0100007F:1F90", "127.0.0.1", 8080, True),
        ("00000000:0050", "0.0.0.0", 80, False),
        ("0200A8C0:01BB", "192.168.0.2", 443, False),
        ("00000000000000000000000001000000:0001", "::1", 1, True),
        ("00000000000000000000000000000000:0001", "::", 1, False),
        ("0000000000000000FFFF00000100007F:0001", "::ffff:127.0.0.1", 1, True),
        ("0000000000000000FFFF00000200A8C0:0001", "::ffff:192.168.0.2", 1, False),
    ],
)
def test_the_kernel_s_addresses_are_read(text, host, port, loopback):
    found, found_port = sockets._decode(text)
    assert ipaddress.ip_address(found) == ipaddress.ip_address(host)
    assert found_port == port
    assert Listener(1, found, found_port).loopback is loopback


def test_own_listening_socket_is_found_and_a_connected_one_is_not_counted():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            found = [s for s in sockets.listeners([os.getpid()]) if s.port == port]
    assert found == [Listener(os.getpid(), "127.0.0.1", port)]


def test_a_process_that_is_gone_listens_nowhere():
    assert sockets.listeners([2**22 + 1]) == []  # above the largest pid


def test_a_block_of_ports_leaves_out_what_is_taken():
    class Always:
        """Draws the taken block first, then the one after it."""

        def __init__(self, starts):
            self.starts = iter(starts)

        def randrange(self, *_):
            return next(self.starts)

    free = sockets.free_block(6, random.Random(1))
    with socket.create_server(("127.0.0.1", free.start)):
        found = sockets.free_block(3, Always([free.start, free.start + 1]))  # type: ignore[arg-type]
    assert found == range(free.start + 1, free.start + 4)
