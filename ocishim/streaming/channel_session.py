"""A client that speaks Kubernetes' channels over WebSocket: streams by number."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from wsproto.frame_protocol import CloseReason

from ocishim.protocol import channels
from ocishim.streaming.remote_stream import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ocishim.streaming.websocket import WebSocket

_HELD: Final = 1 << 20
"""Bytes that wait to be used at which the client is read from no more."""


class ChannelSession:
    """Reads the WebSocket in `run`; ends when the client leaves or makes no sense."""

    def __init__(self, websocket: WebSocket, numbers: Iterable[int], *, is_base64: bool, has_close: bool) -> None:
        self._websocket = websocket
        self._decoder = channels.ChannelDecoder(is_base64=is_base64, has_close=has_close)
        self._is_base64 = is_base64
        self._held = 0
        self._room = asyncio.Event()
        self._room.set()
        self.streams = {number: ChannelStream(self, number) for number in numbers}

    async def run(self) -> None:
        """Read until the client leaves; streams then end."""
        try:
            async for piece, finished in self._websocket.messages():
                self._take(self._decoder.feed(piece, finished=finished))
                if not self._room.is_set():
                    await self._websocket.held_back(self._room)
        except channels.ChannelError as error:
            await self._websocket.close(CloseReason.POLICY_VIOLATION, str(error))
        except ConnectionError:
            pass
        finally:
            for stream in self.streams.values():
                stream.inbox.fail()

    def _take(self, event: channels.Chunk | channels.Closed | None) -> None:
        if event is None:
            return
        stream = self.streams.get(event.channel)
        if stream is None:
            raise channels.ChannelError(f"channel {event.channel} is none of this request's")
        if isinstance(event, channels.Closed):
            stream.inbox.end()
        else:
            self._held += len(event.data)
            stream.inbox.put(event.data)
            if self._held >= _HELD:
                self._room.clear()

    def used(self, size: int) -> None:
        """Bytes are out of the way."""
        self._held -= size
        if self._held < _HELD:
            self._room.set()

    async def send(self, number: int, data: bytes) -> None:
        """Send on a channel, as fast as the client takes it. Raises ConnectionError."""
        await self._websocket.send(channels.encode(number, data, is_base64=self._is_base64))


class ChannelStream:
    """A RemoteStream."""

    def __init__(self, session: ChannelSession, number: int) -> None:
        self._session = session
        self._number = number
        self.inbox = Inbox(session.used)

    async def read(self) -> bytes:
        """The next piece; empty at the end."""
        return await self.inbox.get()

    async def write(self, data: bytes) -> None:
        """Send, as fast as the client takes it."""
        await self._session.send(self._number, data)

    async def end(self) -> None:
        """A channel cannot end before its WebSocket does."""

    def ignore(self) -> None:
        """Drop what the client still sends."""
        self.inbox.ignore()
