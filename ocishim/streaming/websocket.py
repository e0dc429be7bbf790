"""A WebSocket that a client has asked for: the handshake, whole or partial messages in and out, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Sequence

    from ocishim.streaming.connection import Connection

LARGEST_MESSAGE: Final = 32 << 20
"""Bytes; what Kubernetes' own servers take."""
_LONGEST_REASON: Final = 120
"""Bytes of a Close frame's reason (RFC 6455, section 5.5)."""


class NoWebSocket(ValueError):  # noqa: N818 - not an error of ours
    """The request is no WebSocket handshake."""


class WebSocket:
    """The server's side of one WebSocket, after its handshake (RFC 6455)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ws = WSConnection(ConnectionType.SERVER)
        self._size = 0

    def offered(self, headers: Sequence[tuple[bytes, bytes]], target: str) -> list[str]:
        """Begin with the client's request; the sub-protocols that it offers. Raises NoWebSocket."""
        try:
            self._ws.initiate_upgrade_connection(list(headers), target)
            request = next(self._ws.events())
        except (RemoteProtocolError, StopIteration, ValueError) as error:
            raise NoWebSocket(str(error) or "the request is incomplete") from error
        return list(request.subprotocols) if isinstance(request, ws.Request) else []

    async def accept(self, subprotocol: str | None) -> None:
        """Finish the handshake."""
        await self._connection.write(self._ws.send(ws.AcceptConnection(subprotocol=subprotocol)))

    async def messages(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Pieces of messages, and whether each is the last of its message; ends when the client leaves.

        What is against the protocol, or too large, is answered by a Close frame and ends it too.
        """
        while data := await self._connection.read():
            try:
                self._ws.receive_data(data)
                for event in self._ws.events():
                    match event:
                        case ws.BytesMessage() | ws.TextMessage():
                            yield self._piece(event)
                        case ws.Ping():
                            await self._connection.answer(self._ws.send(event.response()))
                        case ws.CloseConnection():
                            await self._connection.answer(self._ws.send(event.response()))
                            return
            except RemoteProtocolError as error:
                await self.close(CloseReason.PROTOCOL_ERROR, str(error))
                return
            except TooLarge:
                await self.close(CloseReason.MESSAGE_TOO_BIG, f"a message of more than {LARGEST_MESSAGE} bytes")
                return
            except LocalProtocolError:
                return  # our own Close is out already

    def _piece(self, event: ws.BytesMessage | ws.TextMessage) -> tuple[bytes, bool]:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        self._size += len(data)
        if self._size > LARGEST_MESSAGE:
            raise TooLarge
        if event.message_finished:
            self._size = 0
        return data, event.message_finished

    async def send(self, message: bytes | str) -> None:
        """Send a message, as fast as the client takes it. Raises ConnectionError."""
        await self._connection.write(self._frame(message))

    async def answer(self, message: bytes) -> None:
        """Send a message and do not wait for it to be taken. Raises ConnectionError."""
        await self._connection.answer(self._frame(message))

    def _frame(self, message: bytes | str) -> bytes:
        event = ws.TextMessage(data=message) if isinstance(message, str) else ws.BytesMessage(data=message)
        try:
            return self._ws.send(event)
        except LocalProtocolError as error:
            raise ConnectionResetError("the WebSocket is closed") from error

    async def close(self, code: CloseReason, why: str = "") -> None:
        """Say that it ends, and why; nothing where it has ended."""
        reason = why.encode()[:_LONGEST_REASON].decode("utf-8", "ignore")
        try:
            await self._connection.answer(self._ws.send(ws.CloseConnection(code=code, reason=reason or None)))
        except (LocalProtocolError, ConnectionError):
            pass

    async def held_back(self, go_on: asyncio.Event) -> None:
        """Wait for the event instead of reading. Raises ConnectionError where the client leaves meanwhile."""
        await self._connection.held_back(go_on, self._ws.send(ws.Ping()))


class TooLarge(Exception):  # noqa: N818 - never leaves this module
    """A message is longer than is taken."""


class TunnelWire:
    """A Wire whose bytes are the binary messages of a WebSocket (SPDY/3.1+portforward.k8s.io)."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._messages = websocket.messages()

    async def read(self) -> bytes:
        """The next bytes; empty where the client has left."""
        async for data, _ in self._messages:
            if data:
                return data
        return b""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client does not take it."""
        if data:
            await self._websocket.send(data)

    async def answer(self, data: bytes) -> None:
        """Send and do not wait."""
        if data:
            await self._websocket.answer(data)

    async def held_back(self, go_on: asyncio.Event, probe: bytes) -> None:  # noqa: ARG002 - a WebSocket has its own
        """Wait for the event instead of reading."""
        await self._websocket.held_back(go_on)
