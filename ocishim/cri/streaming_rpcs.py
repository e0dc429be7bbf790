"""Exec, Attach and PortForward: what is asked for is checked here, and served at the URL that is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocishim.api.runtime import v1
from ocishim.errors import InvalidArgument
from ocishim.lifecycle import attach, exec_start, port_forward
from ocishim.protocol.port_forward import parse_port
from ocishim.protocol.remote_command import Wanted
from ocishim.streaming import tokens

if TYPE_CHECKING:
    from ocishim.lifecycle.node import Node
    from ocishim.streaming.server import StreamingServer


class StreamingRpcs(v1.RuntimeServiceBase):
    """An RPC a method."""

    _node: Node
    _streaming: StreamingServer

    async def exec(self, exec_request: v1.ExecRequest) -> v1.ExecResponse:
        """A URL at which a command is run in a container."""
        request = exec_request
        wanted = _wanted(request)
        container = self._node.container(_id("container_id", request.container_id))
        exec_start.check(container, request.cmd)
        ticket = tokens.Exec(container.id, tuple(request.cmd), wanted)
        return v1.ExecResponse(url=self._streaming.url(ticket))

    async def attach(self, attach_request: v1.AttachRequest) -> v1.AttachResponse:
        """A URL at which a client is connected to a container's process."""
        request = attach_request
        wanted = _wanted(request)
        container = self._node.container(_id("container_id", request.container_id))
        attach.check(container)
        return v1.AttachResponse(url=self._streaming.url(tokens.Attach(container.id, wanted)))

    async def port_forward(self, port_forward_request: v1.PortForwardRequest) -> v1.PortForwardResponse:
        """A URL at which ports of a pod are reached."""
        request = port_forward_request
        for number, port in enumerate(request.port):
            try:
                parse_port(str(port))
            except ValueError as error:
                raise InvalidArgument(f"port[{number}]: {error}") from error
        sandbox = self._node.sandbox(_id("pod_sandbox_id", request.pod_sandbox_id))
        port_forward.check(sandbox)
        ticket = tokens.PortForward(sandbox.id, tuple(request.port))
        return v1.PortForwardResponse(url=self._streaming.url(ticket))


def _wanted(request: v1.ExecRequest | v1.AttachRequest) -> Wanted:
    if request.tty and request.stderr:
        raise InvalidArgument("tty, stderr: a terminal has one output only; ask for stdout")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("stdin, stdout, stderr: none is asked for")
    return Wanted(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, tty=request.tty)


def _id(field: str, value: str) -> str:
    if not value:
        raise InvalidArgument(f"{field} is required")
    return value
