"""What statistics cost: ListContainerStats beside Debian's containerd, and a full node simulated.

    sudo .venv/bin/python tests/bench/stats.py [--containers 20 80] [--rounds N] [--runtime crun|runc]
    sudo .venv/bin/python tests/bench/stats.py --simulate 500

The first starts both servers on private directories with as many pods of one container each, asks in turn, and removes
all. The second makes cgroups and network namespaces without processes, and reads them in this process as the server
would, while a timer watches how late the event loop is. Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from cri_api.v1 import api_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

from bench.side_by_side import PAUSE, Server, containerd, ocishim, private_directory, runtime_service
from ocishim.api.runtime import v1
from ocishim.config import Settings
from ocishim.cri import listing
from ocishim.cri.metrics_encoding import MetricsEncoder
from ocishim.cri.stats_encoding import Encoder
from ocishim.lifecycle.jobs import Jobs
from ocishim.lifecycle.stats import Stats
from ocishim.lifecycle.usage import DiskUsage
from ocishim.linux import cgroup, namespace
from ocishim.store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

IMAGE: Final = "docker.io/library/bench:latest"
LABELS: Final = {f"io.kubernetes.label.{number}": "a value of some length" for number in range(6)}
TICK: Final = 0.001
"""Seconds between two looks at the event loop's clock."""


def pod_with_container(server: Server, number: int) -> str:
    """One pod with one container that sleeps; returns the pod's id."""
    runtime = runtime_service(server.channel)
    options = api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
    pod = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=f"bench-{number}", namespace="bench", uid=f"{number}"),
        labels=LABELS,
        linux=api_pb2.LinuxPodSandboxConfig(
            security_context=api_pb2.LinuxSandboxSecurityContext(namespace_options=options)
        ),
    )
    container = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image=IMAGE),
        command=["/bin/sleep", "1000000"],
        labels=LABELS,
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(namespace_options=options)
        ),
    )
    sandbox_id: str = runtime.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=pod)).pod_sandbox_id
    create = api_pb2.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=pod)
    container_id = runtime.CreateContainer(create).container_id
    runtime.StartContainer(api_pb2.StartContainerRequest(container_id=container_id))
    return sandbox_id


def remove(server: Server, sandbox_id: str) -> None:
    """Stop and remove a pod."""
    runtime = runtime_service(server.channel)
    runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    runtime.RemovePodSandbox(api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))


def shims_cpu(server: Server) -> float:
    """Seconds of CPU that a server's shims have had: containerd has one for each pod, which reads the cgroups."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if "containerd-shim" in name and str(server.stores[0].parents[2].parent).encode() in command:
            total += sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return total


def ask(server: Server, count: int, rounds: int) -> dict[str, object]:
    """Latency and CPU of the lists."""
    runtime = runtime_service(server.channel)
    server.times.clear()
    before = server.cpu() + (shims_cpu(server) if server.name == "containerd" else 0)
    for _ in range(rounds):
        answer = server.timed("ListContainerStats", runtime.ListContainerStats, api_pb2.ListContainerStatsRequest())
        assert len(answer.stats) == count
    after = server.cpu() + (shims_cpu(server) if server.name == "containerd" else 0)
    quartiles = [round(each, 2) for each in statistics.quantiles(server.times["ListContainerStats"], n=4)]
    return {"ms": quartiles, "cpu_ms": round((after - before) * 1000 / rounds, 2)}


def beside(counts: list[int], rounds: int, runtime: str) -> list[dict[str, object]]:
    """Both servers in turn, in one run."""
    rows: list[dict[str, object]] = []
    with private_directory() as scratch, ExitStack() as stack:
        layouts = [scratch / "image", scratch / "pause"]
        for layout, name in zip(layouts, (IMAGE, PAUSE), strict=True):
            layout.mkdir()
            write_layout(layout, name, ["/bin/sleep", "1000000"])
        servers = (
            stack.enter_context(ocishim(scratch, runtime, layouts[:1])),
            stack.enter_context(containerd(scratch, runtime, layouts)),
        )
        pods: dict[str, list[str]] = {server.name: [] for server in servers}
        try:
            for count in sorted(counts):
                for server in servers:
                    made = pods[server.name]
                    while len(made) < count:
                        made.append(pod_with_container(server, len(made)))
                for server in servers:
                    ask(server, count, 3)  # a warm-up, not counted
                found: list[dict[str, object]] = [ask(server, count, rounds) for server in servers]
                rows.append({"containers": count, "ocishim": found[0], "containerd": found[1]})
        finally:
            for server in servers:
                for sandbox_id in pods[server.name]:
                    remove(server, sandbox_id)
    return rows


class Object:
    """A pod or a container, as far as statistics look at them."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


@contextmanager
def cgroups_of(name: str, count: int) -> Iterator[list[str]]:
    """Cgroups of pods in all hierarchies, each with one for a container, without processes."""
    paths = [f"/{name}/pod{number:061d}" for number in range(count)]
    for base in cgroup.hierarchies():
        for path in paths:
            os.makedirs(f"{base}{path}/{'c' * 64}", exist_ok=True)
    try:
        yield paths
    finally:
        cgroup.remove(f"/{name}")


async def simulate(count: int, rounds: int) -> list[dict[str, object]]:
    """Read that many pods of one container each, and see what it costs."""
    scratch = Path(tempfile.mkdtemp(prefix="ocibench-", dir="/run"))
    layout = Layout(str(scratch / "root"), str(scratch / "state"))
    layout.make()
    jobs = Jobs()
    try:
        with cgroups_of(scratch.name, count) as paths:
            sandboxes, containers = [], []
            for number, path in enumerate(paths):
                sandbox_id = f"{number:064x}"
                await namespace.pin(namespace.Pins(layout.sandbox(sandbox_id).namespaces, ("net",), ""))  # type: ignore[arg-type] # an id of our own
                sandboxes.append(_sandbox(sandbox_id, path))
                containers.append(_container(f"{number:064x}", sandbox_id, f"{path}/{'c' * 64}"))
            node = SimpleNamespace(
                settings=Settings(),
                layout=layout,
                jobs=jobs,
                sandboxes=sandboxes,
                containers=containers,
                written=DiskUsage(layout.containers, jobs),
            )
            return await _measure(Stats(node), node, rounds)  # type: ignore[arg-type] # as far as Stats looks at it
    finally:
        await jobs.close(1)
        for sandbox_id in os.listdir(layout.sandbox_states):
            namespace.unpin(f"{layout.sandbox_states}/{sandbox_id}/ns")
        shutil.rmtree(scratch)


def _sandbox(sandbox_id: str, path: str) -> Object:
    metadata = SimpleNamespace(
        id=sandbox_id, name="pod", namespace="ns", uid="u", attempt=0, cgroup_parent=path, namespaces=("net",)
    )
    return Object(id=sandbox_id, metadata=metadata, is_ready=True, config=v1.PodSandboxConfig(labels=LABELS))


def _container(container_id: str, sandbox_id: str, path: str) -> Object:
    metadata = SimpleNamespace(
        id=container_id,
        sandbox_id=sandbox_id,
        name="main",
        attempt=0,
        cgroup=path,
        user_specified_image="registry.example/team/image:v1",
    )
    status = SimpleNamespace(is_running=True, started_at=time.time_ns(), process=SimpleNamespace(pid=os.getpid()))
    return Object(id=container_id, metadata=metadata, status=status, config=v1.ContainerConfig(labels=LABELS))


async def _measure(stats: Stats, node: Any, rounds: int) -> list[dict[str, object]]:
    encoder, metrics = Encoder(node.layout.containers), MetricsEncoder(node.layout.containers)
    calls: dict[str, Callable[[], Coroutine[Any, Any, list[bytes]]]] = {
        "nothing": _nothing,
        "ListContainerStats": lambda: stats.containers(node.containers, encoder.container),
        "ListPodSandboxStats": lambda: stats.sandboxes(node.sandboxes, encoder.sandbox),
        "ListPodSandboxMetrics": lambda: stats.samples(node.sandboxes, metrics.sandbox),
    }
    rows = []
    for name, call in calls.items():
        await call()  # a warm-up, not counted
        times: list[float] = []
        lags: list[float] = []
        size = 0
        watching = asyncio.create_task(_watch(lags))
        cpu = time.process_time()
        for _ in range(rounds):
            began = time.perf_counter()
            size = len(listing.join(await call(), 1).content)
            times.append((time.perf_counter() - began) * 1000)
        cpu = (time.process_time() - cpu) * 1000 / rounds
        watching.cancel()
        lags.sort()
        rows.append(
            {
                "rpc": name,
                "ms": [round(each, 1) for each in statistics.quantiles(times, n=4)],
                "cpu_ms": round(cpu, 1),
                "bytes": size,
                "lag_ms_median": round(statistics.median(lags), 2),
                "lag_ms_99": round(lags[len(lags) * 99 // 100], 2),
                "lag_ms_most": round(lags[-1], 2),
            }
        )
    return rows


async def _nothing() -> list[bytes]:
    """What the machine itself does to the event loop."""
    await asyncio.sleep(0.2)
    return []


async def _watch(lags: list[float]) -> None:
    """How late timers are, in milliseconds."""
    while True:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - due) * 1000)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What statistics cost")
    parser.add_argument("--containers", type=int, nargs="+", default=[20, 80])
    parser.add_argument("--simulate", type=int, default=0, metavar="N", help="pods of one container each")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    chosen = parser.parse_args()
    if chosen.simulate:
        rows = asyncio.run(simulate(chosen.simulate, chosen.rounds))
    else:
        rows = beside(chosen.containers, chosen.rounds, chosen.runtime)
    if chosen.output == "json":
        print(json.dumps(rows))  # noqa: T201
        return 0
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
