"""What the streaming server reaches of this node: exec, attach and port-forward by id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.lifecycle.attach import attach
from ocishim.lifecycle.exec_stream import exec_stream
from ocishim.lifecycle.port_forward import forward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ocishim.lifecycle.node import Node
    from ocishim.protocol.remote_command import Wanted
    from ocishim.streaming.backend import Session, Tunnel


class NodeBackend:
    """A streaming.backend.Backend. What a URL was minted for may be gone: that is NotFound."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def exec(self, container_id: str, command: Sequence[str], wanted: Wanted) -> AbstractAsyncContextManager[Session]:
        """Start a command in a container."""
        return exec_stream(self._node, self._node.container(container_id), command, wanted)

    def attach(self, container_id: str, wanted: Wanted) -> AbstractAsyncContextManager[Session]:
        """Connect to a container's own process."""
        return attach(self._node, self._node.container(container_id), wanted)

    def forward(self, sandbox_id: str, port: int) -> AbstractAsyncContextManager[Tunnel]:
        """Connect to a TCP port on a pod's loopback."""
        return forward(self._node, self._node.sandbox(sandbox_id), port)
