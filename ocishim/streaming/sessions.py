"""From a request and the ticket it redeems to a session in the protocol that the client speaks."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from wsproto.frame_protocol import CloseReason

from ocishim.protocol import port_forward as forwarding
from ocishim.protocol import remote_command as commands
from ocishim.protocol.remote_command import StreamType
from ocishim.protocol.spdy import Limits
from ocishim.streaming import port_forward, remote_command, tokens
from ocishim.streaming.channel_session import ChannelSession
from ocishim.streaming.http import BadRequest
from ocishim.streaming.spdy_session import SpdySession
from ocishim.streaming.websocket import NoWebSocket, TunnelWire, WebSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from ocishim.config import StreamingSettings
    from ocishim.streaming.backend import Backend, Session, Tunnel
    from ocishim.streaming.connection import Connection, Wire
    from ocishim.streaming.http import Exchange, Request
    from ocishim.streaming.spdy_session import SpdyStream
    from ocishim.streaming.tokens import Attach, Exec, PortForward, Ticket

log = logging.getLogger(__name__)

_SPDY: Final = "spdy/3.1"
_WEBSOCKET: Final = "websocket"
_NEGOTIATION: Final = "x-stream-protocol-version"
_COMMAND_STREAMS: Final = 16
"""Of which five are used; the rest is room for what must be refused."""
_FORWARD_STREAMS: Final = 2000
"""Two for each connection."""
_MOST_CHANNELS: Final = 255


class Sessions:
    """Serves tickets."""

    def __init__(self, backend: Backend, settings: StreamingSettings) -> None:
        self._backend = backend
        self._creation_timeout = settings.creation_timeout

    async def serve(self, request: Request, ticket: Ticket, exchange: Exchange, connection: Connection) -> None:
        """Upgrade the connection and serve it to its end. Raises BadRequest before the upgrade, ConnectionError."""
        protocol = request.upgrades_to()
        if protocol == _SPDY:
            await self._spdy(request, ticket, exchange, connection)
        elif protocol == _WEBSOCKET:
            await self._websocket(request, ticket, connection)
        else:
            found = f"not {protocol[:40]!r}" if protocol else "and none was named"
            raise BadRequest(400, f"an upgrade to SPDY/3.1 or to WebSocket is needed, {found}")

    async def _spdy(self, request: Request, ticket: Ticket, exchange: Exchange, connection: Connection) -> None:
        forward = isinstance(ticket, tokens.PortForward)
        known = (forwarding.V1,) if forward else commands.SPDY_PROTOCOLS
        offered = request.values(_NEGOTIATION)
        # Kubernetes 1.0 named none and meant the first of all.
        chosen = commands.negotiate(offered, known) if offered else known[-1]
        if chosen is None:
            accepted = [("x-accepted-stream-protocol-versions", name) for name in known]
            raise BadRequest(403, f"none of the protocols offered is known here: {', '.join(offered)[:200]}", accepted)
        answer = [(_NEGOTIATION, chosen)] if offered else []
        await exchange.switch("SPDY/3.1", answer)
        await self._serve_spdy(connection, connection, ticket, chosen)
        await connection.close_gently()

    async def _serve_spdy(self, wire: Wire, connection: Connection, ticket: Ticket, protocol: str) -> None:
        forward = isinstance(ticket, tokens.PortForward)
        session = SpdySession(wire, Limits(streams=_FORWARD_STREAMS if forward else _COMMAND_STREAMS))
        async with _reading(session.run()) as reader:
            if isinstance(ticket, tokens.PortForward):
                forwards = port_forward.SpdyForwards(
                    session, self._forwarder(ticket), connection.ending, self._creation_timeout
                )
                await _while_there(reader, forwards.serve())
            else:
                await _while_there(reader, self._spdy_command(session, ticket, protocol, connection))
            await session.leave()
        if session.broken:
            log.info("a SPDY client is dropped: %s", session.broken)

    async def _spdy_command(
        self, session: SpdySession, ticket: Exec | Attach, protocol: str, connection: Connection
    ) -> None:
        expected = ticket.wanted.streams(protocol)
        try:
            async with asyncio.timeout(self._creation_timeout):
                streams = await _streams(session, expected)
        except TimeoutError:
            log.info("a client did not open its streams within %g s", self._creation_timeout)
            return
        refusing = asyncio.create_task(_refuse_more(session), name="refuse more streams")
        try:
            await remote_command.serve(self._opening(ticket), streams, protocol, connection.ending)
        finally:
            refusing.cancel()
            await asyncio.wait([refusing])

    async def _websocket(self, request: Request, ticket: Ticket, connection: Connection) -> None:
        websocket = WebSocket(connection)
        try:
            offered = websocket.offered(request.headers, request.target)
        except NoWebSocket as error:
            raise BadRequest(400, f"no WebSocket handshake: {error}") from error
        forward = isinstance(ticket, tokens.PortForward)
        known = (forwarding.TUNNEL, *forwarding.CHANNELS) if forward else commands.WEBSOCKET_PROTOCOLS
        chosen = commands.negotiate(offered, known)
        if offered and chosen is None:
            raise BadRequest(400, f"none of the sub-protocols offered is known here: {', '.join(offered)[:200]}")
        if isinstance(ticket, tokens.PortForward):
            if chosen != forwarding.TUNNEL and not 0 < len(ticket.ports) <= _MOST_CHANNELS // 2:
                raise BadRequest(400, f"{len(ticket.ports)} ports were asked for: channels take from 1 to 127")
            await websocket.accept(chosen)
            if chosen == forwarding.TUNNEL:
                await self._serve_spdy(TunnelWire(websocket), connection, ticket, forwarding.V1)
            else:
                await self._channel_forward(websocket, ticket, chosen or forwarding.CHANNELS[0], connection)
        else:
            await websocket.accept(chosen)
            await self._channel_command(websocket, ticket, chosen or commands.V1, connection)
        stopped = connection.ending.done()
        code = CloseReason.GOING_AWAY if stopped else CloseReason.NORMAL_CLOSURE
        await websocket.close(code, connection.ending.result() if stopped else "")
        await connection.close_gently()

    async def _channel_command(
        self, websocket: WebSocket, ticket: Exec | Attach, protocol: str, connection: Connection
    ) -> None:
        session = ChannelSession(
            websocket,
            commands.CHANNELS,
            is_base64=protocol in (commands.V1_BASE64, commands.V4_BASE64),
            has_close=protocol == commands.V5,
        )
        wanted = ticket.wanted.streams(protocol)
        streams = {}
        for number, kind in commands.CHANNELS.items():
            if kind in wanted:
                streams[kind] = session.streams[number]
            if kind not in wanted or kind not in (StreamType.STDIN, StreamType.RESIZE):
                session.streams[number].ignore()
        async with _reading(session.run()) as reader:
            # An empty message on the first channel of the server's tells clients that the session stands.
            first = next(kind for kind in (StreamType.STDOUT, StreamType.STDERR, StreamType.ERROR) if kind in streams)
            await streams[first].write(b"")
            await _while_there(
                reader, remote_command.serve(self._opening(ticket), streams, protocol, connection.ending)
            )

    async def _channel_forward(
        self, websocket: WebSocket, ticket: PortForward, protocol: str, connection: Connection
    ) -> None:
        session = ChannelSession(
            websocket,
            range(2 * len(ticket.ports)),
            is_base64=protocol == forwarding.CHANNELS[1],
            has_close=False,
        )
        for number in range(len(ticket.ports)):
            session.streams[2 * number + 1].ignore()
        async with _reading(session.run()) as reader:
            work = port_forward.serve_channels(session, ticket.ports, self._forwarder(ticket), connection.ending)
            await _while_there(reader, work)

    def _opening(self, ticket: Exec | Attach) -> AbstractAsyncContextManager[Session]:
        if isinstance(ticket, tokens.Exec):
            return self._backend.exec(ticket.container_id, ticket.command, ticket.wanted)
        return self._backend.attach(ticket.container_id, ticket.wanted)

    def _forwarder(self, ticket: PortForward) -> Callable[[int], AbstractAsyncContextManager[Tunnel]]:
        return lambda port: self._backend.forward(ticket.sandbox_id, port)


async def _streams(session: SpdySession, expected: frozenset[StreamType]) -> dict[StreamType, SpdyStream]:
    """The streams that a remote command needs, as the client opens them; what else it opens is refused."""
    streams: dict[StreamType, SpdyStream] = {}
    while len(streams) < len(expected):
        stream = await session.opened.get()
        kind = stream.headers.get("streamtype", "")
        if kind in expected and kind not in streams:
            streams[StreamType(kind)] = stream
            await stream.accept()
        else:
            await stream.refuse()
    return streams


async def _refuse_more(session: SpdySession) -> None:
    while True:
        stream = await session.opened.get()
        try:
            await stream.refuse()
        except ConnectionError:
            return


@asynccontextmanager
async def _reading(run: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Read what the client sends for the time of the block."""
    reader = asyncio.create_task(run, name="read from the client")
    try:
        yield reader
    finally:
        reader.cancel()
        await asyncio.wait([reader])


async def _while_there(reader: asyncio.Task[None], work: Coroutine[None, None, None]) -> None:
    """Do the work to its end, or until the client has left: then it is cancelled, and cleans up."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, reader), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if not task.cancelled():
        task.result()
