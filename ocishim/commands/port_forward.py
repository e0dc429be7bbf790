"""`ocishim port-forward`: ports of a pod, on this host."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.api.runtime import v1
from ocishim.client import forward
from ocishim.commands import finding
from ocishim.commands.output import say, warn
from ocishim.commands.parsing import endpoint_option
from ocishim.commands.running import run
from ocishim.errors import FailedPrecondition, NotFound, OcishimError, OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ocishim.client import Client
    from ocishim.client.names import Named
    from ocishim.commands.parsing import Parser

_LOOPBACK: Final = ("127.0.0.1", "::1")
_HIGHEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Ports:
    """One LOCAL:REMOTE."""

    local: int
    """0: any that is free."""
    remote: int


def add_options(parser: Parser) -> None:
    """Which pod, and which ports."""
    endpoint_option(parser)
    parser.add_argument(
        "--address", action="append", metavar="ADDRESS", help="where to listen (default 127.0.0.1 and ::1; repeatable)"
    )
    parser.add_argument("pod", metavar="POD", help="its name, NAMESPACE/NAME or the beginning of its id")
    parser.add_argument(
        "ports",
        nargs="+",
        type=_ports,
        metavar="[LOCAL:]REMOTE",
        help="ports; a LOCAL that is empty or 0 is any free one",
    )
    parser.set_defaults(run=lambda chosen: run(_forward, chosen))


def _ports(text: str) -> Ports:
    local, colon, remote = text.rpartition(":")
    ports = Ports(_port(local or "0") if colon else _port(remote), _port(remote))
    if not ports.remote or (not colon and not ports.local):
        raise argparse.ArgumentTypeError(f"{text!r}: a pod has no port 0")
    return ports


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


async def _forward(client: Client, chosen: argparse.Namespace) -> int:
    named = await finding.pod(client, chosen.pod)
    status = (await client.runtime.pod_status(named.id, named.title)).status
    if status.state != v1.PodSandboxState.SANDBOX_READY:
        raise FailedPrecondition(f"{named.title} is not ready: nothing can be reached in it")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    forwarder = _Forwarder(client, named, stop)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(forwarder.close)
        for ports in chosen.ports:
            for server in await forwarder.listen(ports, chosen.address):
                stack.callback(server.close)
        await stop.wait()
    return 1 if forwarder.lost else 0


def _reason(error: OSError) -> str:
    # asyncio puts a sentence of its own into strerror; names that do not resolve have negative numbers.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


class _Forwarder:
    """The listeners' connections, each with a session of its own."""

    def __init__(self, client: Client, pod: Named, stop: asyncio.Event) -> None:
        self.lost = False
        """Whether the pod has gone."""
        self._client = client
        self._pod = pod
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, ports: Ports, addresses: list[str] | None) -> list[asyncio.Server]:
        """Listen for one LOCAL:REMOTE. Raises OperationFailed where that cannot be."""
        servers: list[asyncio.Server] = []
        local = ports.local
        for address in addresses or _LOOPBACK:
            try:
                server = await asyncio.start_server(self._accept(ports.remote), address, local)
            except OSError as error:
                if servers and not addresses:
                    break  # a host without IPv6
                for server in servers:
                    server.close()
                raise OperationFailed(f"{address}:{local}: {_reason(error)}") from error
            servers.append(server)
            # All addresses get the port that the first one got.
            local = server.sockets[0].getsockname()[1]
            shown = f"[{address}]" if ":" in address else address
            say(f"{shown}:{local} -> {ports.remote}")
        return servers

    def _accept(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._carry(port, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def _carry(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; what goes wrong with it is its own affair, unless the pod is gone."""
        title = f"port {port} of {self._pod.title}"
        try:
            request = v1.PortForwardRequest(pod_sandbox_id=self._pod.id, port=[port])
            await forward.carry(await self._client.runtime.forward_url(request, title), reader, writer)
        except (NotFound, FailedPrecondition) as error:
            warn(str(error))
            self.lost = True
            self._stop.set()
        except OcishimError as error:
            warn(f"{title}: {error}")
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
