"""The HTTP server behind the URLs that Exec, Attach and PortForward answer.

A connection makes one request. Until it has shown a token that is good it is one of a few that wait, of which the
oldest goes when too many come: whoever can merely connect cannot keep those out who have a token.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition
from ocishim.streaming import certificates, tokens
from ocishim.streaming.connection import CHUNK, Connection
from ocishim.streaming.http import BadRequest, Exchange
from ocishim.streaming.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ocishim.config import StreamingSettings
    from ocishim.streaming.backend import Backend
    from ocishim.streaming.http import Request
    from ocishim.streaming.tokens import Ticket

log = logging.getLogger(__name__)

_REQUEST_WITHIN: Final = 10.0
"""Seconds that a client gets to make its request, and to shake hands for TLS."""
_MOST_WAITING: Final = 128
"""Connections without a request yet."""
_BACKLOG: Final = 1024
_LOOPBACK: Final = {IPv4Address: "127.0.0.1", IPv6Address: "::1"}
_GOODBYE: Final = 5.0
"""Seconds that sessions get to tell their clients that the server stops."""


class StreamingServer:
    """Mints URLs and serves each once."""

    def __init__(self, settings: StreamingSettings, backend: Backend) -> None:
        self._settings = settings
        self._tokens = tokens.Tokens()
        self._sessions = Sessions(backend, settings)
        self._base = ""
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._waiting: dict[asyncio.Task[None], Connection] = {}
        """The oldest first."""
        self._open: Counter[str] = Counter()
        self._stopping = False

    def open_sessions(self) -> Mapping[str, int]:
        """How many there are, by RPC."""
        return dict(self._open)

    def url(self, ticket: Ticket) -> str:
        """A URL that serves the ticket once within a minute. Raises ResourceExhausted, FailedPrecondition."""
        if self._stopping:
            raise FailedPrecondition("the server is stopping: no new exec, attach or port-forward")
        return self._base + tokens.path_of(ticket, self._tokens.mint(ticket))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen; at the end tell every client that the server stops. Raises FailedPrecondition."""
        settings = self._settings
        tls = await asyncio.to_thread(certificates.context, settings)
        try:
            server = await asyncio.start_server(
                self._accept,
                settings.address,
                settings.port,
                limit=CHUNK,
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=_REQUEST_WITHIN if tls else None,
            )
        except OSError as error:
            where = f"{settings.address}, port {settings.port}"
            raise FailedPrecondition(f"streaming: cannot listen on {where}: {error.strerror or error}") from error
        port = server.sockets[0].getsockname()[1]
        self._base = f"{'https' if tls else 'http'}://{_host(settings.address)}:{port}"
        log.info("exec, attach and port-forward are served on %s", self._base)
        try:
            yield
        finally:
            self._stopping = True
            server.close()
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        tasks = set(self._tasks)
        for connection in self._tasks.values():
            connection.end("the container runtime is stopping")
        for task in self._waiting:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_GOODBYE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of its own, made by asyncio; it ends with the connection, and never in an exception."""
        task = asyncio.current_task()
        connection = Connection(reader, writer, self._settings.idle_timeout)
        if task is None or self._stopping:
            connection.close()
            return
        self._tasks[task] = self._waiting[task] = connection
        if len(self._waiting) > _MOST_WAITING:
            next(iter(self._waiting)).cancel()
        try:
            await self._serve(connection, task)
        except Exception:
            log.exception("a streaming session: a bug")
        finally:
            self._tasks.pop(task, None)
            self._waiting.pop(task, None)
            connection.close()

    async def _serve(self, connection: Connection, task: asyncio.Task[None]) -> None:
        exchange = Exchange(connection)
        try:
            request = await _in_time(exchange)
            if request is None:
                return
            ticket = self._redeem(request)
            del self._waiting[task]
            kind = type(ticket).__name__
            self._open[kind] += 1
            try:
                await self._sessions.serve(request, ticket, exchange, connection)
            finally:
                self._open[kind] -= 1
        except BadRequest as answer:
            log.info("a streaming request is refused with %d: %s", answer.status, answer)
            with suppress(ConnectionError):
                await exchange.refuse(answer)
                await connection.close_gently()
        except ConnectionError:
            pass  # the client has left

    def _redeem(self, request: Request) -> Ticket:
        if len(self._tasks) - len(self._waiting) >= self._settings.sessions:
            raise BadRequest(503, f"{self._settings.sessions} sessions are open already; try again later")
        ticket = self._tokens.redeem(request.path)
        if ticket is None:
            raise BadRequest(404, "no such URL, or no longer: each serves one request, made within a minute")
        return ticket


async def _in_time(exchange: Exchange) -> Request | None:
    try:
        async with asyncio.timeout(_REQUEST_WITHIN):
            return await exchange.request()
    except TimeoutError as error:
        raise BadRequest(408, f"no request within {_REQUEST_WITHIN:g} s") from error


def _host(address: str) -> str:
    """The address as a URL names it."""
    parsed = ip_address(address)
    if parsed.is_unspecified:
        parsed = ip_address(_LOOPBACK[type(parsed)])
    return f"[{parsed}]" if isinstance(parsed, IPv6Address) else str(parsed)
