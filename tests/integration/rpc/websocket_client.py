"""Kubernetes' channels by Python's websockets, as a client sees them."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V5 = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
CLOSE = 255
PATIENCE = 20.0


class Channels:
    """One WebSocket whose binary messages begin with a channel's number."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.got: dict[int, bytes] = defaultdict(bytes)

    def send(self, channel: int, data: bytes) -> None:
        """Send on a channel."""
        self.socket.send(bytes((channel,)) + data)

    def close(self, channel: int) -> None:
        """End a channel, as v5 can."""
        self.socket.send(bytes((CLOSE, channel)))

    def receive(self) -> bool:
        """Take one message; False where the server has closed."""
        try:
            message = self.socket.recv(timeout=PATIENCE)
        except ConnectionClosed:
            return False
        assert isinstance(message, bytes)
        self.got[message[0]] += message[1:]
        return True

    def until(self, seen: Callable[[], bool]) -> None:
        """Take messages until that holds."""
        while not seen():
            assert self.receive(), f"the server closed; until then: {dict(self.got)}"

    def finish(self) -> dict[str, Any]:
        """Take all that comes; the status document at the end."""
        while self.receive():
            pass
        status: dict[str, Any] = json.loads(self.got[ERROR])
        return status


@contextmanager
def opened(url: str, protocol: str, **options: Any) -> Iterator[ClientConnection]:
    """A WebSocket to a URL that Exec, Attach or PortForward answered."""
    plain: dict[str, Any] = {"max_size": None, "compression": None, "proxy": None}
    with connect(address(url), subprotocols=[Subprotocol(protocol)], **plain, **options) as socket:
        assert socket.subprotocol == protocol
        yield socket


@contextmanager
def channels(url: str, protocol: str = V5, **options: Any) -> Iterator[Channels]:
    """The same, with binary channels."""
    with opened(url, protocol, **options) as socket:
        yield Channels(socket)


def address(url: str) -> str:
    """The WebSocket address of a URL."""
    return url.replace("http", "ws", 1)


def exit_code(status: dict[str, Any]) -> int:
    """The exit code in a status document."""
    if status["status"] == "Success":
        return 0
    assert status["reason"] == "NonZeroExitCode", status
    return int(status["details"]["causes"][0]["message"])
