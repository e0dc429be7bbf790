"""A streaming server for tests: a WebSocket's other end, that does as it is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
)

from ocishim.protocol import spdy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

STREAMS = 4
"""error, stdin, stdout, stderr."""


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.machine = WSConnection(ConnectionType.SERVER)
        self.pongs = 0

    async def request(self) -> Request:
        """What the client asks for."""
        event = await self.event()
        assert isinstance(event, Request)
        return event

    async def event(self) -> Event | None:
        """What comes next; None at the end."""
        while True:
            for event in self.machine.events():
                return event
            data = await self.reader.read(1 << 16)
            if not data:
                return None
            self.machine.receive_data(data)

    async def message(self) -> bytes:
        """The next message, however many pieces it comes in; empty at the end."""
        whole = b""
        while (event := await self.event()) is not None:
            if isinstance(event, Pong):
                self.pongs += 1
            elif isinstance(event, CloseConnection):
                await self.send(event.response())
                return b""
            elif isinstance(event, BytesMessage):
                whole += event.data
                if event.message_finished:
                    return whole
        return b""

    async def send(self, event: Event) -> None:
        """Say something."""
        await self.raw(self.machine.send(event))

    async def raw(self, data: bytes) -> None:
        """Write bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def accept(self, protocol: str | None) -> Request:
        """Begin the session."""
        request = await self.request()
        await self.send(AcceptConnection(subprotocol=protocol))
        return request

    async def reject(self, code: int, words: bytes) -> None:
        """Refuse the session."""
        await self.request()
        headers = [(b"content-length", b"%d" % len(words))]
        await self.send(RejectConnection(status_code=code, headers=headers, has_body=True))
        await self.send(RejectData(data=words))

    async def reject_websocket(self, words: bytes) -> bool:
        """Refuse if a WebSocket is wanted; False where it is something else, whose request is read."""
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += await self.reader.read(1 << 16)
        if b"websocket" not in asked:
            return False
        await self.raw(b"HTTP/1.1 400 No\r\ncontent-length: %d\r\n\r\n%s" % (len(words), words))
        return True

    async def say(self, channel: int, data: bytes) -> None:
        """A message of a channel."""
        await self.send(BytesMessage(data=bytes([channel]) + data))

    async def ping(self) -> None:
        """Ask whether the client lives."""
        await self.send(Ping())

    async def close(self) -> None:
        """Say goodbye."""
        await self.send(CloseConnection(code=1000))


class SpdyCommand:
    """A remote command over SPDY, from the server's side."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.machine = spdy.SpdyConnection(windows=False)
        self.streams: dict[str, int] = {}

    @classmethod
    async def begin(cls, peer: Peer) -> SpdyCommand:
        """Change to SPDY, and take the streams."""
        made = cls(peer)
        await peer.raw(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        )
        while len(made.streams) < STREAMS:
            for event in made.machine.receive(await peer.reader.read(1)):
                if isinstance(event, spdy.StreamOpened):
                    made.streams[event.headers["streamtype"]] = event.stream_id
                    made.machine.reply(event.stream_id)
        await made.flush()
        return made

    async def input(self) -> bytes:
        """All that comes on stdin."""
        data = b""
        while True:
            for event in self.machine.receive(await self.peer.reader.read(1 << 16)):
                if isinstance(event, spdy.DataReceived):
                    data += event.data
                    if event.fin:
                        return data

    def say(self, name: str, data: bytes, *, fin: bool = False) -> None:
        """Say something on a stream."""
        self.machine.send(self.streams[name], data, fin=fin)

    async def flush(self) -> None:
        """Have it all sent."""
        await self.peer.raw(self.machine.data_to_send())


@asynccontextmanager
async def serving(behave: Callable[[Peer], Awaitable[object]]) -> AsyncIterator[str]:
    """The URL of a server that behaves so on each connection; what goes wrong in it fails the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(Peer(reader, writer))
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - it is raised below
            failures.append(error)
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/exec/token?x=1"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise failures[0]
