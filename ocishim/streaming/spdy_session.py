"""A client that speaks SPDY/3.1: its streams as they come, over any Wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ocishim.protocol import spdy
from ocishim.protocol.spdy_frames import Reset
from ocishim.streaming.remote_stream import Inbox, StreamGone

if TYPE_CHECKING:
    from ocishim.streaming.connection import Wire

_HELD: Final = 1 << 20
"""Bytes that wait to be used at which a client without flow control is read from no more."""
_LARGEST_FRAME: Final = 64 << 10
_ACCEPTED: Final = {":status": "200", ":version": "HTTP/1.1"}
"""Without these a reply is none (section 3.2.2 of the draft), though Go's peers do without."""
_WINDOWED: Final = 8
"""Times _HELD that a client with flow control may have waiting: more than all that its windows allow."""


class SpdySession:
    """Reads the wire in `run` and hands out streams; ends when the client leaves or makes no sense."""

    def __init__(self, wire: Wire, limits: spdy.Limits) -> None:
        self._wire = wire
        self._machine = spdy.SpdyConnection(limits=limits)
        self._streams: dict[int, SpdyStream] = {}
        self._held = 0
        self._room = asyncio.Event()
        self._room.set()
        self.opened: asyncio.Queue[SpdyStream] = asyncio.Queue()
        """Streams that the client has begun; the limit of open ones bounds it."""
        self.broken = ""
        """What was wrong with what the client sent."""

    async def run(self) -> None:
        """Read until the client leaves; streams then end."""
        try:
            await self.flush()
            while data := await self._wire.read():
                for event in self._machine.receive(data):
                    self._take(event)
                await self.answer()
                if self.broken:
                    return
                if not self._room.is_set():
                    await self._wire.held_back(self._room, self._machine.probe())
        except ConnectionError:
            pass
        finally:
            for stream in self._streams.values():
                stream.gone()

    def _take(self, event: spdy.Event) -> None:
        match event:
            case spdy.StreamOpened(stream_id, headers, fin):
                stream = SpdyStream(self, stream_id, headers)
                self._streams[stream_id] = stream
                stream.take(b"", fin=fin)
                self.opened.put_nowait(stream)
            case spdy.DataReceived(stream_id, data, fin):
                self._hold(len(data))
                self._streams[stream_id].take(data, fin=fin)
            case spdy.HeadersReceived(stream_id, _, True):
                self._streams[stream_id].take(b"", fin=True)
            case spdy.StreamReset(stream_id, _):
                self._streams.pop(stream_id).gone()
            case spdy.WindowOpened(stream_id):
                woken = [self._streams[stream_id]] if stream_id else self._streams.values()
                for stream in woken:
                    stream.window_opened.set()
            case spdy.Broken(why):
                self.broken = why
            case _:
                pass  # pings are answered by the machine; a client that goes away closes the wire too

    def _hold(self, size: int) -> None:
        self._held += size
        allowed = _HELD * (_WINDOWED if self._machine.peer_has_windows else 1)
        if self._held >= allowed:
            self._room.clear()

    def used(self, stream_id: int, size: int) -> None:
        """Bytes of a stream are out of the way."""
        self._held -= size
        if self._held < _HELD:
            self._room.set()
        self._machine.acknowledge(stream_id, size)

    async def flush(self) -> None:
        """Send what is due, and wait while the client does not take it."""
        await self._wire.write(self._machine.data_to_send())

    async def answer(self) -> None:
        """Send what is due, and do not wait for it to be taken."""
        await self._wire.answer(self._machine.data_to_send())

    def reply(self, stream_id: int) -> None:
        """Accept a stream."""
        self._machine.reply(stream_id, _ACCEPTED)

    def reset(self, stream_id: int, status: Reset) -> None:
        """Refuse or abandon a stream."""
        self._machine.reset(stream_id, status)
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.gone()

    async def send(self, stream: SpdyStream, data: bytes) -> None:
        """Send on a stream as its window opens. Raises StreamGone, ConnectionError."""
        machine, stream_id = self._machine, stream.stream_id
        position = 0
        while position < len(data):
            room = min(machine.sendable(stream_id), _LARGEST_FRAME)
            if not machine.is_sending(stream_id):
                raise StreamGone
            if not room:
                stream.window_opened.clear()
                await stream.window_opened.wait()
                continue
            machine.send(stream_id, data[position : position + room])
            position += room
            await self.flush()

    def fin(self, stream_id: int) -> None:
        """Close our half of a stream."""
        if self._machine.is_sending(stream_id):
            self._machine.send(stream_id, b"", fin=True)

    def forget(self, stream: SpdyStream) -> None:
        """A stream that is closed both ways takes no place."""
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]

    async def leave(self) -> None:
        """Say goodbye."""
        self._machine.go_away()
        try:
            await self.flush()
        except ConnectionError:
            pass


class SpdyStream:
    """A RemoteStream."""

    def __init__(self, session: SpdySession, stream_id: int, headers: dict[str, str]) -> None:
        self._session = session
        self.stream_id = stream_id
        self.headers = headers
        self.inbox = Inbox(self._used)
        self.window_opened = asyncio.Event()
        self._half_closed = {"here": False, "there": False}

    def _used(self, size: int) -> None:
        self._session.used(self.stream_id, size)

    def take(self, data: bytes, *, fin: bool) -> None:
        """The client has sent."""
        self.inbox.put(data)
        if fin:
            self.inbox.end()
            self._close("there")

    def gone(self) -> None:
        """Nothing more comes, and nothing can be sent."""
        self.inbox.fail()
        self.window_opened.set()

    def _close(self, half: str) -> None:
        self._half_closed[half] = True
        if all(self._half_closed.values()):
            self._session.forget(self)

    async def accept(self) -> None:
        """Tell the client that its stream is served: it sends nothing before."""
        self._session.reply(self.stream_id)
        await self._session.flush()

    async def refuse(self, status: Reset = Reset.PROTOCOL_ERROR) -> None:
        """Reset the stream."""
        self._session.reset(self.stream_id, status)
        await self._session.flush()

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises StreamGone where it was reset."""
        data = await self.inbox.get()
        await self._session.answer()  # perhaps it is time to announce room
        return data

    async def write(self, data: bytes) -> None:
        """Send, as fast as the client takes it."""
        await self._session.send(self, data)

    async def end(self) -> None:
        """Close our half."""
        self._session.fin(self.stream_id)
        self._close("here")
        await self._session.flush()

    def ignore(self) -> None:
        """Drop what the client still sends."""
        self.inbox.ignore()
