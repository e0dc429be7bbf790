"""Pseudo-terminals that an OCI runtime makes: its --console-socket hands their server's end over (runc(8))."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import socket
import struct
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_WITHIN: Final = 10.0
"""Seconds; the runtime has connected before it is done."""
_OUTPUT_FLAGS: Final = 1
"""Of what tcgetattr returns (termios(3))."""


class ConsoleSocket:
    """Where the runtime connects to."""

    def __init__(self, listener: socket.socket, path: str, directory: int) -> None:
        self._listener = listener
        self.path = path
        """Through a descriptor of its directory, as a socket's path may have some hundred bytes only."""
        self.directory = directory
        """That descriptor: the runtime must inherit it."""

    async def terminal(self) -> int:
        """The terminal's descriptor, which the caller owns. Raises OperationFailed where none comes."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_WITHIN):
                connection, _ = await loop.sock_accept(self._listener)
                with connection:
                    return await self._receive(connection)
        except (TimeoutError, OSError) as error:
            raise OperationFailed(f"the runtime sent no terminal: {error or 'it did not connect'}") from error

    @staticmethod
    async def _receive(connection: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        if not descriptors:
            raise OSError("a message without a descriptor")
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]


@contextmanager
def console_socket(directory: str) -> Iterator[ConsoleSocket]:
    """A socket in the directory for the time of the block."""
    name = f"console-{secrets.token_hex(8)}"
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{fd}/{name}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            try:
                listener.listen(1)
                listener.setblocking(False)
                yield ConsoleSocket(listener, path, fd)
            finally:
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


def end_lines_with_return(terminal: int) -> None:
    """Have output's line feeds come with a carriage return, as the client's terminal, a raw one, needs."""
    attributes = termios.tcgetattr(terminal)
    attributes[_OUTPUT_FLAGS] |= termios.OPOST | termios.ONLCR
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def resize(terminal: int, *, width: int, height: int) -> None:
    """Set the terminal's size in characters; its foreground processes get SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
