"""What the streaming server reaches of this node: exec, attach and port-forward by id."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ocishim.lifecycle.attach import attach
from ocishim.lifecycle.exec_stream import exec_stream
from ocishim.lifecycle.port_forward import forward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ocishim.lifecycle.node import Node
    from ocishim.protocol.remote_command import Wanted
    from ocishim.streaming.backend import Session, Tunnel


class NodeBackend:
    """A streaming.backend.Backend. What a URL was minted for may be gone: that is NotFound."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @asynccontextmanager
    async def exec(self, container_id: str, command: Sequence[str], wanted: Wanted) -> AsyncIterator[Session]:
        """Start a command in a container."""
        async with exec_stream(self._node, self._node.container(container_id), command, wanted) as session:
            yield session

    @asynccontextmanager
    async def attach(self, container_id: str, wanted: Wanted) -> AsyncIterator[Session]:
        """Connect to a container's own process."""
        async with attach(self._node, self._node.container(container_id), wanted) as session:
            yield session

    @asynccontextmanager
    async def forward(self, sandbox_id: str, port: int) -> AsyncIterator[Tunnel]:
        """Connect to a TCP port on a pod's loopback."""
        async with forward(self._node, self._node.sandbox(sandbox_id), port) as tunnel:
            yield tunnel
