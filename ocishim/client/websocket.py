"""A WebSocket to the URL that Exec, Attach and PortForward answer with (RFC 6455, by wsproto)."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

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

from ocishim.errors import OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from wsproto.events import Event

CONNECT_WITHIN: Final = 30.0
"""Seconds until a session must have begun."""
_CLOSE_WITHIN: Final = 1.0
_READ: Final = 1 << 16
_LARGEST_MESSAGE: Final = 16 << 20
_LARGEST_REASON: Final = 4096
"""Bytes of a refusal that are shown."""


class _Target(NamedTuple):
    host: str
    port: int
    resource: str
    tls: ssl.SSLContext | None


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
        """The handshake. Raises OperationFailed with the server's words where it refuses."""
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
                reason += event.data[: _LARGEST_REASON - len(reason)]
                if event.body_finished:
                    break
        if refusal is None:
            raise OperationFailed("the server closed the connection instead of answering")
        words = reason.decode("utf-8", "replace").strip()
        raise OperationFailed(f"the server answered {refusal.status_code}{f': {words}' if words else ''}")

    async def receive(self) -> bytes | None:
        """The next message; None once the server has closed. Raises OperationFailed where it breaks the protocol."""
        message = b""
        while (event := await self._next()) is not None:
            if isinstance(event, Ping):
                await self._write(self._machine.send(event.response()))
            elif isinstance(event, CloseConnection):
                with suppress(LocalProtocolError):  # an answer to our own
                    await self._write(self._machine.send(event.response()))
                break
            elif isinstance(event, BytesMessage | TextMessage):
                data = event.data if isinstance(event.data, bytes | bytearray) else event.data.encode()
                message += data
                if len(message) > _LARGEST_MESSAGE:
                    raise OperationFailed(f"the server sent a message of more than {_LARGEST_MESSAGE} bytes")
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

    Raises Unavailable where there is no connection, OperationFailed where the server refuses.
    """
    target = _target(url)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
    except (OSError, TimeoutError) as error:
        raise Unavailable(
            f"the streaming server on {target.host}:{target.port} cannot be reached: {error or 'no answer'}"
        ) from error
    socket = WebSocket(reader, writer)
    try:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                await socket.open(f"{_bracketed(target.host)}:{target.port}", target.resource, protocols)
        except TimeoutError as error:
            raise Unavailable(f"the streaming server on {target.host}:{target.port} does not answer") from error
        yield socket
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _target(url: str) -> _Target:
    """Where a URL leads; one without a host is on this one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise OperationFailed(f"the server answered with a URL that is none: {url!r}") from error
    secure = parts.scheme in ("https", "wss")
    if parts.scheme not in ("", "http", "ws", "https", "wss"):
        raise OperationFailed(f"the server answered with a URL of unknown kind: {url!r}")
    host = parts.hostname or "localhost"
    resource = parts.path or "/"
    if parts.query:
        resource += f"?{parts.query}"
    return _Target(host, port or (443 if secure else 80), resource, _tls(host) if secure else None)


def _tls(host: str) -> ssl.SSLContext:
    """Certificates count, except on this host: what we talk to there was named by a socket that we trust."""
    context = ssl.create_default_context()
    if _is_loopback(host):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
