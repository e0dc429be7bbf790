"""The TCP connection to a URL that a server has answered with, in TLS where the URL says so."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from ocishim.errors import OperationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGEST_REASON: Final = 4096
"""Bytes of a refusal that are shown."""
_WITHIN: Final = 30.0
"""Seconds until a session must have begun."""


class Refused(OperationFailed):
    """The server answered, with another status than the one that begins a session."""

    def __init__(self, status: int, reason: bytes | bytearray) -> None:
        words = " ".join(reason.decode("utf-8", "replace").split())
        super().__init__(f"the server answered {status}{f': {words}' if words else ''}")


@dataclass(frozen=True, slots=True)
class Line:
    """A connection, and what to ask for on it."""

    host: str
    """For the Host header."""
    resource: str
    """Path and query."""
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Target(NamedTuple):
    host: str
    port: int
    resource: str
    tls: ssl.SSLContext | None


@asynccontextmanager
async def dialed(url: str) -> AsyncIterator[Line]:
    """A connection to where a URL leads. Raises Unavailable where there is none."""
    target = _target(url)
    try:
        async with asyncio.timeout(_WITHIN):
            reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
    except (OSError, TimeoutError) as error:
        raise Unavailable(
            f"the streaming server on {target.host}:{target.port} cannot be reached: {error or 'no answer'}"
        ) from error
    try:
        yield Line(f"{_bracketed(target.host)}:{target.port}", target.resource, reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def in_time(line: Line) -> AsyncIterator[None]:
    """A handshake for which the server has not all the time of the world."""
    try:
        async with asyncio.timeout(_WITHIN):
            yield
    except TimeoutError as error:
        raise Unavailable(f"the streaming server on {line.host} does not answer") from error


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
