"""Exec and port-forward, ocishim beside Debian's containerd: latency and throughput by one WebSocket client, in turn.

    sudo .venv/bin/python tests/bench/streaming.py [--rounds N] [--megabytes N] [--runtime crun|runc]

Starts both servers on private directories, and ends and removes them. Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cri_api.v1 import api_pb2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

from bench.side_by_side import PAUSE, Server, containerd, ocishim, private_directory, runtime_service

IMAGE = "docker.io/library/bench:latest"
CHANNELS = Subprotocol("v4.channel.k8s.io")
PIECE = bytes(1 << 20)
ECHO_PORT, SOURCE_PORT = 7000, 7001
STDIN = b"\0"
DATA = b"\0"


@dataclass
class Bench:
    """One server's pod, and what was measured of it."""

    server: Server
    megabytes: int
    container_id: str = ""
    sandbox_id: str = ""
    found: dict[str, list[float]] = field(default_factory=dict)

    def prepare(self) -> None:
        """A pod that sleeps, echoes on one port, and sends without end on another."""
        runtime = runtime_service(self.server.channel)
        namespaces = api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
        pod = api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name="streaming", namespace="bench", uid="streaming"),
            linux=api_pb2.LinuxPodSandboxConfig(
                security_context=api_pb2.LinuxSandboxSecurityContext(namespace_options=namespaces)
            ),
        )
        self.sandbox_id = runtime.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=pod)).pod_sandbox_id
        busybox = "/bin/busybox"
        script = (
            f"{busybox} nc -ll -p {ECHO_PORT} -e {busybox} cat & "
            f"{busybox} nc -ll -p {SOURCE_PORT} -e {busybox} head -c {self.megabytes << 20} /dev/zero & "
            f"trap 'exit 0' TERM; while :; do {busybox} sleep 0.1; done"
        )
        config = api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="c"),
            image=api_pb2.ImageSpec(image=IMAGE),
            command=[busybox, "sh", "-c", script],
            linux=api_pb2.LinuxContainerConfig(
                security_context=api_pb2.LinuxContainerSecurityContext(namespace_options=namespaces)
            ),
        )
        create = api_pb2.CreateContainerRequest(pod_sandbox_id=self.sandbox_id, config=config, sandbox_config=pod)
        self.container_id = runtime.CreateContainer(create).container_id
        runtime.StartContainer(api_pb2.StartContainerRequest(container_id=self.container_id))

    def remove(self) -> None:
        """Take the pod away."""
        runtime = runtime_service(self.server.channel)
        runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=self.sandbox_id))
        runtime.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox_id))

    def exec(self, *command: str, stdin: bool = False) -> Any:
        """A connection for a command."""
        request = api_pb2.ExecRequest(container_id=self.container_id, cmd=command, stdin=stdin, stdout=True)
        return _connect(runtime_service(self.server.channel).Exec(request).url)

    def forward(self, port: int) -> Any:
        """A connection for a port."""
        request = api_pb2.PortForwardRequest(pod_sandbox_id=self.sandbox_id, port=[port])
        return _connect(runtime_service(self.server.channel).PortForward(request).url)

    def note(self, what: str, value: float) -> None:
        """One more measurement."""
        self.found.setdefault(what, []).append(value)

    async def round(self) -> None:
        """Each measurement once."""
        await self._exec_latency()
        await self._exec_output()
        await self._exec_input()
        await self._forward_latency()
        await self._forward_output()

    async def _exec_latency(self) -> None:
        began = time.perf_counter()
        async with self.exec("/bin/busybox", "true") as socket:
            await _received(socket)
        self.note("exec of `true`, from RPC to end (ms)", (time.perf_counter() - began) * 1000)

    async def _exec_output(self) -> None:
        size = self.megabytes << 20
        began = time.perf_counter()
        async with self.exec("/bin/busybox", "head", "-c", str(size), "/dev/zero") as socket:
            received = await _received(socket)
        if received < size:
            raise RuntimeError(f"{self.server.name}: {received} bytes came of {size}")
        self.note("exec stdout (MB/s)", size / 1e6 / (time.perf_counter() - began))

    async def _exec_input(self) -> None:
        size = self.megabytes << 20
        script = f"/bin/busybox head -c {size} | /bin/busybox wc -c"
        began = time.perf_counter()
        async with self.exec("/bin/busybox", "sh", "-c", script, stdin=True) as socket:
            with suppress(ConnectionClosed):  # the command has all, and the client may not know it yet
                for _ in range(self.megabytes):
                    await socket.send(STDIN + PIECE)
            counted = "".join([str(message) async for message in socket])
        if str(size) not in counted:
            raise RuntimeError(f"{self.server.name}: the command counted {counted}")
        self.note("exec stdin (MB/s)", size / 1e6 / (time.perf_counter() - began))

    async def _forward_latency(self) -> None:
        began = time.perf_counter()
        async with self.forward(ECHO_PORT) as socket:
            await socket.send(DATA + b"x")
            await _answered(socket, b"x")
            self.note("port-forward, from RPC to first byte (ms)", (time.perf_counter() - began) * 1000)
            for _ in range(100):
                began = time.perf_counter()
                await socket.send(DATA + b"y")
                await _answered(socket, b"y")
                self.note("port-forward, there and back (ms)", (time.perf_counter() - began) * 1000)

    async def _forward_output(self) -> None:
        size = self.megabytes << 20
        began = time.perf_counter()
        received = 0
        async with self.forward(SOURCE_PORT) as socket:
            while received < size:
                message = await socket.recv()
                received += len(message) - 1 if message[:1] == DATA else 0
        self.note("port-forward from the pod (MB/s)", size / 1e6 / (time.perf_counter() - began))


def _connect(url: str) -> connect:
    address = url.replace("http", "ws", 1)
    return connect(
        address, subprotocols=[CHANNELS], max_size=None, compression=None, proxy=None, ping_interval=None, max_queue=64
    )


async def _received(socket: ClientConnection) -> int:
    """Bytes of all messages until the server closes."""
    received = 0
    try:
        while True:
            received += len(await socket.recv()) - 1
    except ConnectionClosed:
        return received


async def _answered(socket: ClientConnection, byte: bytes) -> None:
    while True:
        message = await socket.recv()
        if message[:1] == DATA and message[-1:] == byte:
            return


def spread(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return [round(value, 1) for value in statistics.quantiles(values, n=4)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="exec and port-forward beside Debian's containerd")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    chosen = parser.parse_args()
    with private_directory() as scratch, ExitStack() as stack:
        layouts = [scratch / "image", scratch / "pause"]
        for layout, name, command in zip(
            layouts, (IMAGE, PAUSE), (["/bin/sh"], ["/bin/sleep", "1000000"]), strict=True
        ):
            layout.mkdir()
            write_layout(layout, name, command)
        ours = Bench(stack.enter_context(ocishim(scratch, chosen.runtime, layouts[:1])), chosen.megabytes)
        peer = Bench(stack.enter_context(containerd(scratch, chosen.runtime, layouts)), chosen.megabytes)
        for bench in (ours, peer):
            bench.prepare()
            stack.callback(bench.remove)
        for number in range(chosen.rounds + 1):
            for bench in (ours, peer):
                asyncio.run(bench.round())
                if number == 0:  # a warm-up, not counted
                    bench.found.clear()
            print(f"\r{number}/{chosen.rounds}", end="", file=sys.stderr, flush=True)  # noqa: T201
    rows: list[dict[str, Any]] = [
        {
            "what": what,
            "ocishim": spread(mine),
            "containerd": spread(peer.found[what]),
            "ratio": statistics.median(mine) / statistics.median(peer.found[what]),
        }
        for what, mine in ours.found.items()
    ]
    print(file=sys.stderr)  # noqa: T201
    print(f"{'quartiles, median in the middle':44}{'ocishim':>26}{'containerd':>26}{'ratio':>8}")  # noqa: T201
    for row in rows:
        mine, other = (" / ".join(map(str, row[name])) for name in ("ocishim", "containerd"))
        print(f"{row['what']:44}{mine:>26}{other:>26}{row['ratio']:8.2f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
