"""A SPDY client by our own machine, in the client's role, with or without flow control as Go's has none."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ocishim.protocol import spdy
from rpc import raw_client as raw

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator


class SpdyClient:
    """One connection; what comes is kept by stream."""

    def __init__(self, sock: socket.socket, *, windows: bool) -> None:
        self.sock = sock
        self.machine = spdy.SpdyConnection(client=True, windows=windows)
        self.got: dict[int, bytes] = defaultdict(bytes)
        self.events: list[spdy.Event] = []
        self.finished: set[int] = set()
        self.reset: dict[int, int] = {}
        self.replied: set[int] = set()
        self.closed = False

    def open(self, **headers: str) -> int:
        """Open a stream and wait for the reply, or the refusal."""
        stream = self.machine.open(headers)
        self.until(lambda: stream in self.replied or stream in self.reset)
        return stream

    def send(self, stream: int, data: bytes, *, fin: bool = False) -> None:
        """Send all of it as the window allows, taking what comes meanwhile."""
        while len(data) > (room := min(self.machine.sendable(stream), 1 << 16)):
            if room:
                self.machine.send(stream, data[:room])
                data = data[room:]
            self.flush()
            if not self.machine.sendable(stream):
                assert self.receive()
        self.machine.send(stream, data, fin=fin)
        self.flush()

    def flush(self) -> None:
        """Send what is due."""
        self.sock.sendall(self.machine.data_to_send())

    def receive(self) -> bool:
        """Take some bytes; False where the server has closed."""
        self.flush()
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.machine.receive(data):
            self._take(event)
        self.flush()
        return True

    def _take(self, event: spdy.Event) -> None:
        self.events.append(event)
        match event:
            case spdy.HeadersReceived(stream, _, fin):
                self.replied.add(stream)
                if fin:
                    self.finished.add(stream)
            case spdy.DataReceived(stream, data, fin):
                self.got[stream] += data
                self.machine.acknowledge(stream, len(data))
                if fin:
                    self.finished.add(stream)
            case spdy.StreamReset(stream, status):
                self.reset[stream] = status
            case spdy.Broken(why):
                raise AssertionError(why)

    def until(self, seen: Callable[[], bool]) -> None:
        """Take what comes until that holds."""
        while not seen():
            assert self.receive(), f"the server closed; until then: {self.events}"

    def finish(self) -> None:
        """Take all that comes."""
        while self.receive():
            pass


class Command:
    """An exec or attach: its streams by name."""

    def __init__(self, client: SpdyClient, streams: dict[str, int]) -> None:
        self.client = client
        self.streams = streams

    def got(self, name: str) -> bytes:
        """What came on a stream until now."""
        return self.client.got[self.streams[name]]

    def status(self) -> dict[str, Any]:
        """Take all that comes; the status document."""
        self.client.finish()
        document: dict[str, Any] = json.loads(self.got("error"))
        return document


@contextmanager
def connected(url: str, headers: dict[str, str], *, windows: bool = False) -> Iterator[SpdyClient]:
    """A SPDY connection to a URL."""
    with raw.upgraded(url, headers, "POST") as sock:
        yield SpdyClient(sock, windows=windows)


@contextmanager
def command(url: str, *names: str, windows: bool = False) -> Iterator[Command]:
    """A remote command with the streams of these names, and the error stream."""
    with connected(url, raw.SPDY, windows=windows) as client:
        yield Command(client, {name: client.open(streamtype=name) for name in ("error", *names)})
