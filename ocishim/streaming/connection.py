"""One client's connection: bytes both ways, with back-pressure, a clock for idleness, and a word for its end."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final, Protocol

CHUNK: Final = 64 << 10
"""Bytes read at a time."""
_UNTAKEN: Final = 1 << 20
"""Bytes of answers that a client may leave untaken before it is read from no more."""
_LOOK: Final = 1.0
"""Seconds between looks at a connection that is not read from."""
_LOOKS_FOR_A_PROBE: Final = 3
_FLUSH: Final = 30.0
"""Seconds that a client gets to take what was sent when all else is done."""
_LINGER: Final = 2.0
"""Seconds that it then gets to close its side."""
_TCP_LEAVING: Final = frozenset((7, 8))
"""TCP_CLOSE and TCP_CLOSE_WAIT in the kernel's include/net/tcp_states.h: the client has left."""
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class Wire(Protocol):
    """What a protocol's session runs over: a connection, or a WebSocket that is a tunnel."""

    async def read(self) -> bytes:
        """The next bytes; empty where the client has left."""

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client does not take what was sent. Raises ConnectionError."""

    async def answer(self, data: bytes) -> None:
        """Send a few bytes and do not wait for the client to take them, unless it has left very many untaken.

        Else a client that does not read would stop what it sends from being read, and who only reads from waiting.
        """

    async def held_back(self, go_on: asyncio.Event, probe: bytes) -> None:
        """Wait for the event instead of reading. Raises ConnectionError where the client leaves meanwhile.

        `probe` is sent from time to time: the protocol's own ping.
        """


class Connection:
    """A Wire over TCP, with or without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_timeout: float) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self.ending: asyncio.Future[str] = self._loop.create_future()
        """Set once the session must end, to why: the server stops, or nothing was heard for too long."""
        self._idle_timeout = idle_timeout
        self._active_at = self._loop.time()
        self._idle_check = self._loop.call_later(idle_timeout, self._check_idle)
        raw = writer.get_extra_info("socket")
        self._socket: socket.socket | None = raw
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, value in _KEEPALIVE:
                raw.setsockopt(socket.IPPROTO_TCP, option, value)

    def end(self, why: str) -> None:
        """Ask the session to end and to tell the client why."""
        if not self.ending.done():
            self.ending.set_result(why)

    def _check_idle(self) -> None:
        idle = self._loop.time() - self._active_at
        if idle >= self._idle_timeout:
            self.end(f"nothing was sent or received for {self._idle_timeout:g} s")
        else:
            self._idle_check = self._loop.call_later(self._idle_timeout - idle, self._check_idle)

    def unread(self, data: bytes) -> None:
        """Have the next read return these bytes: they came with the request."""
        self._unread = data

    async def read(self) -> bytes:
        """The next bytes; empty where the client has left."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        try:
            data = await self._reader.read(CHUNK)
        except (ConnectionError, TimeoutError, OSError):
            return b""
        self._active_at = self._loop.time()
        return data

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client does not take what was sent. Raises ConnectionError."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client has left")
        if data:
            self._writer.write(data)
            self._active_at = self._loop.time()
        await self._writer.drain()

    async def answer(self, data: bytes) -> None:
        """Send a few bytes and do not wait, unless very many are untaken. Raises ConnectionError."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client has left")
        if data:
            self._writer.write(data)
            if self._writer.transport.get_write_buffer_size() > _UNTAKEN:
                await self._writer.drain()

    async def held_back(self, go_on: asyncio.Event, probe: bytes) -> None:
        """Wait for the event instead of reading. Raises ConnectionError where the client leaves meanwhile.

        A socket that is not read from tells the event loop nothing, so its state is looked at from time to time. The
        end of a client's stream may wait behind what was not read, too; but a kernel whose client has closed answers
        any data by a reset, and `probe` is such data.
        """
        looks = 0
        while not go_on.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await go_on.wait()
                    return
            if self._client_left():
                raise ConnectionResetError("the client has left")
            looks += 1
            if looks % _LOOKS_FOR_A_PROBE == 0:
                await self.answer(probe)

    def _client_left(self) -> bool:
        if self._writer.is_closing():
            return True
        if self._socket is None:
            return False
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return True
        return bool(struct.unpack("B", info)[0] in _TCP_LEAVING)

    def close(self) -> None:
        """Let the connection go, at once: what was sent and not taken is lost."""
        self._idle_check.cancel()
        self._writer.transport.abort()

    async def close_gently(self) -> None:
        """Let all that was sent reach the client, and go when it has left or is in no hurry to.

        A socket closed with bytes unread is reset, and what the client has not read yet is lost to it.
        """
        try:
            async with asyncio.timeout(_FLUSH):
                self._writer.transport.set_write_buffer_limits(high=0)
                await self._writer.drain()
            async with asyncio.timeout(_LINGER):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self.read():
                    pass
        except (TimeoutError, OSError):
            pass
        finally:
            self.close()
