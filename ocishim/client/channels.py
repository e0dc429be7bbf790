"""A remote command's channels, whatever carries them: WebSocket, or SPDY for servers whose WebSocket lacks a word.

Over WebSocket each message begins with its channel; in v5.channel.k8s.io a client can also say that one has ended.
Before v5 it has no words for that, and a command that reads to the end of its input waits for ever.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from ocishim.client import websocket
from ocishim.protocol import channels
from ocishim.protocol.remote_command import V5

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocishim.client.websocket import WebSocket


class Channels(Protocol):
    """Numbered as remote_command.CHANNELS has it."""

    can_end: bool
    """Whether the other side can be told that a channel has ended."""

    async def receive(self) -> tuple[int, bytes | memoryview] | None:
        """What comes next, and on which; None at the end of all. Raises OperationFailed where that breaks a rule."""

    async def send(self, channel: int, data: bytes) -> None:
        """Send, as soon as what was sent before has gone; dropped where the other side takes no more."""

    async def end(self, channel: int) -> None:
        """Say that no more will come on this one."""

    async def close(self) -> None:
        """Say goodbye."""


class WebSocketChannels:
    """A message for each piece."""

    def __init__(self, socket: WebSocket) -> None:
        self.can_end = socket.protocol == V5
        self.close = socket.close
        self._socket = socket

    async def receive(self) -> tuple[int, bytes | memoryview] | None:
        """As Channels has it."""
        while (message := await self._socket.receive()) is not None:
            if message:
                return message[0], memoryview(message)[1:]
        return None

    async def send(self, channel: int, data: bytes) -> None:
        """As Channels has it."""
        await self._socket.send(bytes((channel,)) + data)

    async def end(self, channel: int) -> None:
        """As Channels has it."""
        await self.send(channels.CLOSE, bytes((channel,)))


@asynccontextmanager
async def over_websocket(url: str, protocols: Sequence[str]) -> AsyncIterator[Channels]:
    """Channels over a WebSocket. Raises Refused where the server speaks none of the protocols."""
    async with websocket.opened(url, protocols) as socket:
        yield WebSocketChannels(socket)
