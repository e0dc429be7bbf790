"""A client that speaks HTTP and what comes after it byte by byte, right or wrong."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

WEBSOCKET = {
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "v4.channel.k8s.io",
}
SPDY = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
FORWARD = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "portforward.k8s.io"}
PATIENCE = 20.0


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A TCP connection to a URL's server."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=PATIENCE) as sock:
        yield sock


def request(url: str, headers: dict[str, str], method: str = "GET") -> bytes:
    """The request for a URL."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {urlsplit(url).path} HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\n{lines}\r\n".encode()


def head(sock: socket.socket) -> bytes:
    """The answer's head, and not a byte more."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        answer += byte
    return answer


def rest(sock: socket.socket) -> bytes:
    """All that comes until the server closes; a reset is an end too."""
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def status(sock: socket.socket) -> int:
    """The status of the answer."""
    return int(head(sock).split()[1])


@contextmanager
def upgraded(url: str, headers: dict[str, str], method: str = "GET") -> Iterator[socket.socket]:
    """A connection that speaks another protocol now."""
    with connected(url) as sock:
        sock.sendall(request(url, headers, method))
        assert status(sock) == 101
        yield sock
