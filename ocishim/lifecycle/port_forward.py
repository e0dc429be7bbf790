"""Port-forward: a connection to a port inside a pod, whatever addresses the pod has."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from ocishim.errors import FailedPrecondition, OperationFailed, Unavailable
from ocishim.linux import namespace
from ocishim.linux.stream import Reader, SocketWriter, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ocishim.lifecycle.node import Node
    from ocishim.lifecycle.sandbox import Sandbox

_LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


def check(sandbox: Sandbox) -> None:
    """Raises FailedPrecondition where the pod is not ready."""
    if not sandbox.is_ready:
        raise FailedPrecondition(f"{sandbox.title} ({sandbox.id[:13]}) is not ready: nothing in it can be reached")


class Connected:
    """A streaming.backend.Tunnel."""

    def __init__(self, reader: Reader, writer: SocketWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """The next piece; empty at the end."""
        return await self._reader.read()

    async def write(self, data: bytes) -> None:
        """All of it, in its own time."""
        await self._writer.write(data)

    def end(self) -> None:
        """No more is sent."""
        self._writer.end()


@asynccontextmanager
async def forward(node: Node, sandbox: Sandbox, port: int) -> AsyncIterator[Connected]:
    """Connect to the port on the pod's loopback, by IPv4 or else by IPv6.

    Raises FailedPrecondition where the pod is not ready, Unavailable where nothing listens there.
    """
    check(sandbox)
    with ExitStack() as stack:
        fd = (await _connected(node, sandbox, port)).detach()
        reader = Reader(fd)
        stack.callback(reader.close)
        writer = SocketWriter(os.dup(fd))
        stack.callback(writer.close)
        yield Connected(reader, writer)


async def _connected(node: Node, sandbox: Sandbox, port: int) -> socket.socket:
    refusals = []
    for family, address in _LOOPBACK:
        try:
            made = await _socket(node, sandbox, family)
        except OSError as error:
            raise OperationFailed(f"{sandbox.title}: its network cannot be entered: {error.strerror}") from error
        try:
            await connect(made, (address, port))
        except BaseException as error:
            made.close()
            if not isinstance(error, OSError):
                raise
            refusals.append(f"{address}: {os.strerror(error.errno) if error.errno else error}")
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
    raise Unavailable(f"{sandbox.title}: port {port} cannot be reached in it: {'; '.join(refusals)}")


async def _socket(node: Node, sandbox: Sandbox, family: int) -> socket.socket:
    """A socket in the pod's network, which it stays in wherever it is used."""
    if "net" not in sandbox.metadata.namespaces:
        return socket.socket(family, socket.SOCK_STREAM)
    path = f"{node.layout.sandbox(sandbox.metadata.id).namespaces}/net"
    return await namespace.socket_in(path, family)
