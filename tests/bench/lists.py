"""What kubelet's relist costs: ListContainers and ListPodSandbox with many containers, beside Debian's containerd.

    sudo .venv/bin/python tests/bench/lists.py [--containers 500] [--pods 10] [--rounds 200] [--runtime crun|runc]

Both servers get as many pods and created containers, with labels and annotations as kubelet gives them; then they are
asked in turn. CPU is the server's own, user and system. Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cri_api.v1 import api_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

from bench.side_by_side import PAUSE, Server, containerd, ocishim, private_directory, runtime_service

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE: Final = "docker.io/library/bench:latest"
LABELS: Final = {f"io.kubernetes.label.{number}": "value-of-some-length" for number in range(5)}
ANNOTATIONS: Final = {f"io.kubernetes.annotation.{number}": "x" * 60 for number in range(8)}


def fill(server: Server, pods: int, containers: int) -> None:
    """Make pods, and containers in them that are never started."""
    runtime = runtime_service(server.channel)
    options = api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
    security = api_pb2.LinuxSandboxSecurityContext(namespace_options=options)
    for number in range(pods):
        pod = api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name=f"list-{number}", namespace="bench", uid=f"{number}"),
            labels=LABELS,
            annotations=ANNOTATIONS,
            linux=api_pb2.LinuxPodSandboxConfig(security_context=security),
        )
        sandbox_id = runtime.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=pod)).pod_sandbox_id
        for inner in range(containers // pods):
            container = api_pb2.ContainerConfig(
                metadata=api_pb2.ContainerMetadata(name=f"c-{inner}"),
                image=api_pb2.ImageSpec(image=IMAGE),
                labels=LABELS,
                annotations=ANNOTATIONS,
            )
            request = api_pb2.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=pod)
            runtime.CreateContainer(request)


def empty(server: Server) -> None:
    """Remove them."""
    runtime = runtime_service(server.channel)
    for pod in runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
        runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=pod.id))
        runtime.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod.id))


def ask(server: Server, rounds: int) -> dict[str, tuple[list[float], float]]:
    """Quartiles of latency and the mean of CPU, in milliseconds, by RPC; the answer is not decoded by the client."""
    calls: dict[str, Callable[[bytes], bytes]] = {
        name: server.channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")
        for name in ("ListContainers", "ListPodSandbox")
    }
    found = {}
    for name, call in calls.items():
        call(b"")
        times, before = [], server.cpu()
        for _ in range(rounds):
            began = time.perf_counter()
            call(b"")
            times.append((time.perf_counter() - began) * 1000)
        found[name] = (statistics.quantiles(times, n=4), (server.cpu() - before) / rounds * 1000)
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="lists beside Debian's containerd")
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    chosen = parser.parse_args()
    with private_directory() as scratch, ExitStack() as stack:
        layouts = [scratch / "image", scratch / "pause"]
        for layout, name, command in zip(layouts, (IMAGE, PAUSE), (["/bin/sh"], ["/bin/sleep", "9999"]), strict=True):
            layout.mkdir()
            write_layout(layout, name, command)
        servers = (
            stack.enter_context(ocishim(scratch, chosen.runtime, layouts[:1])),
            stack.enter_context(containerd(scratch, chosen.runtime, layouts)),
        )
        for server in servers:
            stack.callback(empty, server)
            fill(server, chosen.pods, chosen.containers)
        print(f"{'ms':16}{'':12}{'latency: quartiles':>28}{'CPU a call':>14}")  # noqa: T201
        for server in servers:
            for name, (quartiles, cpu) in ask(server, chosen.rounds).items():
                spread = " / ".join(f"{value:.2f}" for value in quartiles)
                print(f"{name:16}{server.name:12}{spread:>28}{cpu:>14.2f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
