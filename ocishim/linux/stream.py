"""Pipes, pseudo-terminals and sockets on the event loop, a piece at a time and no faster than the other end.

Unlike asyncio's own transports these keep nothing: what is not read stays in the kernel and stops its writer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from typing import Final

CHUNK: Final = 64 << 10
"""Bytes read at a time; what a pipe holds."""


class Reader:
    """One end to read from; owns its descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._finishing = False

    async def read(self) -> bytes:
        """The next piece; empty at the end. One caller at a time. Raises OSError where a socket broke."""
        await asyncio.sleep(0)  # a source that never runs dry must not keep everyone else waiting
        while self._fd >= 0:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                if self._finishing:
                    return b""
                await self._wait()
            except OSError as error:
                if self._is_terminal(error):
                    return b""
                raise
        return b""

    @staticmethod
    def _is_terminal(error: OSError) -> bool:
        """Whether this is how a pseudo-terminal says that its other end is gone."""
        return error.errno == errno.EIO

    async def _wait(self) -> None:
        self._ready.clear()
        self._loop.add_reader(self._fd, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)

    def finish(self) -> None:
        """Read what is there, and then wait no more: a descendant may hold the other end for ever."""
        self._finishing = True
        self._ready.set()

    def close(self) -> None:
        """Let the descriptor go."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._ready.set()


class Writer:
    """One end to write to; owns its descriptor."""

    def __init__(self, fd: int, *, largest: int = CHUNK) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._largest = largest
        """Bytes of one write; a socket that keeps messages apart has a reader with a buffer of some size."""
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        """All of it, in its own time. One caller at a time. Raises OSError where nobody reads any more."""
        left = memoryview(data)
        while left:
            if self._fd < 0:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            try:
                left = left[os.write(self._fd, left[: self._largest]) :]
            except BlockingIOError:
                await self._wait()

    async def _wait(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            if self._fd >= 0:
                self._loop.remove_writer(self._fd)

    def end(self) -> None:
        """No more comes: the reader sees the end of the file."""
        self.close()

    def close(self) -> None:
        """Let the descriptor go."""
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


class TerminalWriter(Writer):
    """The server's end of a pseudo-terminal: whose input has no end, as a person may always type more."""

    def end(self) -> None:
        """Nothing."""


class SocketWriter(Writer):
    """A connected socket to write to."""

    def end(self) -> None:
        """Close this direction; the other goes on."""
        if self._fd >= 0:
            with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as half:
                half.shutdown(socket.SHUT_WR)


async def connect(sock: socket.socket, address: str | tuple[str, int]) -> None:
    """connect(2) without blocking. Raises OSError."""
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
