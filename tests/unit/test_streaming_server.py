"""The streaming server over a backend that echoes: no container, no root."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ocishim.config import StreamingSettings
from ocishim.errors import NotFound
from ocishim.protocol import spdy
from ocishim.protocol.remote_command import Outcome, Size, StreamType, Wanted
from ocishim.protocol.spdy_frames import Data, Parser
from ocishim.streaming import tokens
from ocishim.streaming.server import StreamingServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from ocishim.streaming.backend import Tunnel

WANTED = Wanted(stdin=True, stdout=True, stderr=False, tty=True)
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
)


class Echo:
    """A process that says what it hears, and how large its terminal is; it ends with its input."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._over = asyncio.Event()
        self.outputs = [self]
        self.stdin = self

    async def write(self, data: bytes) -> None:
        await self._heard.put(data)

    def end(self) -> None:
        self._heard.put_nowait(b"")

    async def read(self) -> tuple[StreamType, bytes] | None:
        data = await self._heard.get()
        if not data:
            self._over.set()
            return None
        return StreamType.STDOUT, data

    async def resize(self, size: Size) -> None:
        await self._heard.put(f"<{size.width}x{size.height}>".encode())

    async def wait(self) -> Outcome:
        await self._over.wait()
        return Outcome(4)


class EchoBackend:
    """A Backend; it tells when its session is open and when it is closed."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def exec(self, container_id: str, command: Sequence[str], wanted: Wanted) -> AsyncIterator[Echo]:
        if command == ("absent",):
            raise NotFound(f"no {container_id} with stdin: {wanted.stdin}")
        self.opened.set()
        try:
            yield Echo()
        finally:
            self.closed.set()

    def attach(self, container_id: str, wanted: Wanted) -> AbstractAsyncContextManager[Echo]:
        return self.exec(container_id, (), wanted)

    def forward(self, sandbox_id: str, port: int) -> AbstractAsyncContextManager[Tunnel]:
        raise NotImplementedError(f"{sandbox_id}:{port}")


@pytest.fixture
def backend() -> EchoBackend:
    return EchoBackend()


@pytest.fixture
async def server(backend: EchoBackend) -> AsyncIterator[StreamingServer]:
    made = StreamingServer(StreamingSettings(), backend)
    async with made.running():
        yield made


def exec_url(server: StreamingServer, *command: str) -> tuple[int, str]:
    """Port and path."""
    url = server.url(tokens.Exec("c", command or ("echo",), WANTED))
    authority, _, path = url.removeprefix("http://127.0.0.1:").partition("/")
    return int(authority), f"/{path}"


def conversation(path: str) -> bytes:
    """All that a client says that opens its streams, sends a size and some input, and ends it."""
    client = spdy.SpdyConnection(client=True, windows=False)
    streams = {name: client.open({"streamtype": name}) for name in ("error", "stdin", "stdout", "resize")}
    client.send(streams["resize"], json.dumps({"Width": 8, "Height": 2}).encode())
    client.send(streams["stdin"], b"hello", fin=True)
    return HEAD.format(path=path).encode() + client.data_to_send()


async def answers(reader: asyncio.StreamReader) -> tuple[bytes, dict[int, bytes]]:
    """The answer's head, and what came on each stream until the server left."""
    head = await reader.readuntil(b"\r\n\r\n")
    parser = Parser(1 << 16)
    found: dict[int, bytes] = {}
    while data := await reader.read(65536):
        for frame in parser.feed(data):
            if isinstance(frame, Data):
                found[frame.stream_id] = found.get(frame.stream_id, b"") + frame.data
    return head, found


async def said(server: StreamingServer, *pieces: bytes, port: int) -> tuple[bytes, dict[int, bytes]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return await answers(reader)
    finally:
        writer.close()
        await writer.wait_closed()


def right(head: bytes, found: dict[int, bytes]) -> bool:
    """Streams 1 error, 5 stdout; size and input may come in any order."""
    exit_code = json.loads(found[1])["details"]["causes"][0]["message"]
    return b" 101 " in head and exit_code == "4" and b"hello" in found[5]


async def test_a_conversation_a_byte_at_a_time(server: StreamingServer) -> None:
    port, path = exec_url(server)
    wire = conversation(path)
    assert right(*await said(server, *(wire[at : at + 1] for at in range(len(wire))), port=port))


async def test_a_conversation_cut_anywhere(server: StreamingServer) -> None:
    for cut in range(0, 500, 7):
        port, path = exec_url(server)
        wire = conversation(path)
        assert right(*await said(server, wire[:cut], wire[cut:], port=port)), cut


async def test_what_fails_to_open_is_told_on_the_error_stream(server: StreamingServer) -> None:
    port, path = exec_url(server, "absent")
    _, found = await said(server, conversation(path), port=port)
    assert json.loads(found[1])["message"] == "no c with stdin: True"


async def test_a_client_that_leaves_closes_its_session(server: StreamingServer, backend: EchoBackend) -> None:
    port, path = exec_url(server)
    client = spdy.SpdyConnection(client=True)
    for name in ("error", "stdin", "stdout", "resize"):
        client.open({"streamtype": name})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD.format(path=path).encode() + client.data_to_send())
    await reader.readuntil(b"\r\n\r\n")
    await backend.opened.wait()
    writer.transport.abort()
    await asyncio.wait_for(backend.closed.wait(), 10)


async def test_a_server_that_ends_tells_its_sessions(backend: EchoBackend) -> None:
    server = StreamingServer(StreamingSettings(), backend)
    client = spdy.SpdyConnection(client=True, windows=False)
    for name in ("error", "stdin", "stdout", "resize"):
        client.open({"streamtype": name})
    async with server.running():
        port, path = exec_url(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.format(path=path).encode() + client.data_to_send())
        await backend.opened.wait()
        reading = asyncio.create_task(answers(reader))
        await asyncio.sleep(0)
    writer.close()
    _, found = await reading
    assert "stopping" in json.loads(found[1])["message"]
    assert backend.closed.is_set()
