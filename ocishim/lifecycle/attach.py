"""Attach: a client joined to a container's own process, by the socket that its conmon keeps."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, OperationFailed
from ocishim.linux.stream import Reader, SocketWriter, connect
from ocishim.protocol.remote_command import Outcome, StreamType
from ocishim.runtime import conmon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node
    from ocishim.protocol.remote_command import Size, Wanted

_LARGEST_MESSAGE: Final = 8 << 10
"""Bytes; conmon reads a message into a buffer four times as long."""
_STREAMS: Final = {2: StreamType.STDOUT, 3: StreamType.STDERR}
"""The first byte of conmon's messages."""


def check(container: Container) -> None:
    """Raises FailedPrecondition where the container does not run."""
    if not container.status.is_running:
        raise FailedPrecondition(f"{container.title} is not running: there is nothing to attach to")


class Attached:
    """A streaming.backend.Session of a container's process."""

    def __init__(self, reader: Reader, stdin: SocketWriter | None, bundle: str | None) -> None:
        self._reader = reader
        self._bundle = bundle
        self._over = asyncio.Event()
        self.outputs = [self]
        self.stdin = stdin

    async def read(self) -> tuple[StreamType, bytes] | None:
        """The next piece of output, of either stream; None at the end."""
        while True:
            try:
                message = await self._reader.read()
            except OSError:
                message = b""
            if not message:
                self._over.set()
                return None
            kind = _STREAMS.get(message[0])
            if kind is not None and len(message) > 1:
                return kind, message[1:]

    async def resize(self, size: Size) -> None:
        """Tell its terminal, if it has one, its size."""
        if self._bundle is not None:
            await conmon.resize(self._bundle, width=size.width, height=size.height)

    async def wait(self) -> Outcome:
        """Wait until its conmon says nothing more, because it has ended. Its exit code is for who stays attached no
        secret, and yet no failure of the attach."""
        await self._over.wait()
        return Outcome()


@asynccontextmanager
async def attach(node: Node, container: Container, wanted: Wanted) -> AsyncIterator[Attached]:
    """Connect to the container's process: its output from now on, and its input where the container has one.

    Raises FailedPrecondition where it does not run, OperationFailed where its conmon does not answer.
    """
    check(container)
    paths = node.layout.container(container.metadata.id)
    with ExitStack() as stack:
        fd = await _connected(f"{paths.sockets}/{container.id}", container)
        reader = Reader(fd)
        stack.callback(reader.close)
        writer = None
        if wanted.stdin and container.metadata.stdin:
            writer = SocketWriter(os.dup(fd), largest=_LARGEST_MESSAGE)
            stack.callback(writer.close)
        yield Attached(reader, writer, paths.bundle if container.metadata.tty else None)


async def _connected(directory: str, container: Container) -> int:
    """A connected socket's descriptor. The path goes through a descriptor: a socket's has some hundred bytes only."""
    try:
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
                await connect(made, f"/proc/self/fd/{at}/attach")
                return made.detach()
        finally:
            os.close(at)
    except OSError as error:
        raise OperationFailed(f"{container.title}: its conmon cannot be reached: {error.strerror or error}") from error
