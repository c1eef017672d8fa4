"""Which processes listen where: what a local Ray must not do is listen beyond loopback.

Joins /proc/net/tcp and tcp6 (socket inode → address) with /proc/PID/fd (process → inode).
"""

import ipaddress
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h

BLOCK_START, BLOCK_END = 20_000, 32_768
"""Below Linux's ephemeral ports (32768-60999): no outgoing connection takes one of the block."""


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    pid: int
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """All listening TCP sockets of these processes."""
    address = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                address[fields[9]] = _decode(fields[1])
    return [
        Listener(pid, *address[inode])
        for pid in pids
        for inode in _socket_inodes(pid)
        if inode in address
    ]


def _decode(text: str) -> tuple[str, int]:
    """Turn `0100007F:1F90` into ("127.0.0.1", 8080): 32-bit words in host byte order."""
    words, port = text.split(":")
    raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return str(ipaddress.ip_address(raw)), int(port, 16)


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        handles = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return found  # ended, or not ours to look into
    for handle in handles:
        try:
            target = str(handle.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def free_block(count: int, generator: random.Random) -> range:
    """`count` ports in a row on which nothing listens on loopback at this moment."""
    for _ in range(200):
        start = generator.randrange(BLOCK_START, BLOCK_END - count)
        block = range(start, start + count)
        if all(map(_is_free, block)):
            return block
    raise OSError(f"no {count} free ports in a row between {BLOCK_START} and {BLOCK_END}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
