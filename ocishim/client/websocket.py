"""A WebSocket to the URL that Exec, Attach and PortForward answer with (RFC 6455, by wsproto)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ocishim.client.dialing import LARGEST_REASON, Refused, dialed, in_time
from ocishim.errors import OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from wsproto.events import Event

_CLOSE_WITHIN: Final = 1.0
_READ: Final = 1 << 16
_LARGEST_MESSAGE: Final = 16 << 20


class WebSocket:
    """Whole messages, in and out; `protocol` is the sub-protocol that the server has chosen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.protocol = ""
        self._reader = reader
        self._writer = writer
        self._machine = WSConnection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._ended = False

    async def open(self, host: str, resource: str, protocols: Sequence[str]) -> None:
        """The handshake. Raises Refused where the server will not, OperationFailed where it breaks the protocol."""
        await self._write(
            self._machine.send(Request(host=host, target=resource, subprotocols=list(protocols), extensions=[]))
        )
        refusal: RejectConnection | None = None
        reason = bytearray()
        while (event := await self._next()) is not None:
            if isinstance(event, AcceptConnection):
                if event.subprotocol is None or event.subprotocol not in protocols:
                    raise OperationFailed(f"the server speaks none of {', '.join(protocols)}")
                self.protocol = event.subprotocol
                return
            if isinstance(event, RejectConnection):
                refusal = event
                if not event.has_body:
                    break
            elif isinstance(event, RejectData):
                reason += event.data[: LARGEST_REASON - len(reason)]
                if event.body_finished:
                    break
        if refusal is None:
            raise OperationFailed("the server closed the connection instead of answering")
        raise Refused(refusal.status_code, reason)

    async def receive(self) -> bytes | bytearray | None:
        """The next message; None once the server has closed. Raises OperationFailed where it breaks the protocol."""
        message = bytearray()
        while (event := await self._next()) is not None:
            if isinstance(event, Ping):
                await self._write(self._machine.send(event.response()))
            elif isinstance(event, CloseConnection):
                with suppress(LocalProtocolError):  # an answer to our own
                    await self._write(self._machine.send(event.response()))
                break
            elif isinstance(event, BytesMessage | TextMessage):
                data = event.data if isinstance(event.data, bytes | bytearray) else event.data.encode()
                if len(message) + len(data) > _LARGEST_MESSAGE:
                    raise OperationFailed(f"the server sent a message of more than {_LARGEST_MESSAGE} bytes")
                if event.message_finished and not message:
                    return data
                message += data
                if event.message_finished:
                    return message
        self._ended = True
        return None

    async def send(self, message: bytes) -> None:
        """Send a message, as soon as the ones before have gone; what the other side no longer takes is dropped."""
        with suppress(LocalProtocolError):
            await self._write(self._machine.send(BytesMessage(data=message)))

    async def close(self) -> None:
        """Say goodbye, and wait a moment for the other side to do so: what it had to say is then out of the way."""
        with suppress(LocalProtocolError, OSError, OperationFailed, TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN):
                await self._write(self._machine.send(CloseConnection(code=1000)))
                while not self._ended:
                    await self.receive()

    async def _next(self) -> Event | None:
        """The next event; None at the connection's end."""
        while True:
            try:
                for event in self._events:
                    return event
                data = await self._reader.read(_READ)
                if not data:
                    return None
                self._machine.receive_data(data)
            except RemoteProtocolError as error:
                raise OperationFailed(f"the server does not keep to the WebSocket protocol: {error}") from error
            except LocalProtocolError:
                return None  # it had closed already
            except OSError as error:
                raise Unavailable(f"the connection to the streaming server broke: {error}") from error
            self._events = self._machine.events()

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        with suppress(ConnectionError):  # reading finds out, after what was still on its way
            await self._writer.drain()


@asynccontextmanager
async def opened(url: str, protocols: Sequence[str]) -> AsyncIterator[WebSocket]:
    """A WebSocket with one of these sub-protocols, the first that the server knows.

    Raises Unavailable where there is no connection, Refused where the server will not.
    """
    async with dialed(url) as line:
        socket = WebSocket(line.reader, line.writer)
        async with in_time(line):
            await socket.open(line.host, line.resource, protocols)
        yield socket
