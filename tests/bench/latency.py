"""Latency of each RPC, ocishim beside Debian's containerd: same OCI runtime, same CNI network, in turn, in one run.

    sudo .venv/bin/python tests/bench/latency.py [--rounds N] [--runtime crun|runc] [--output table|json]

Starts both servers on private directories, and ends and removes them. Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from cri_api.v1 import api_pb2, api_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
IMAGE = "docker.io/library/bench:latest"
PAUSE = "docker.io/library/bench-pause:latest"
STEPS = (
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
)
BRIDGES = ("ocibench0", "cdbench0")
READY_WITHIN = 30.0


@dataclass
class Server:
    """A CRI server under measurement."""

    name: str
    channel: grpc.Channel
    times: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})

    def timed(self, step: str, call: Callable[[Any], T], request: Any) -> T:
        """Call, and note the milliseconds."""
        began = time.perf_counter()
        answer = call(request)
        self.times[step].append((time.perf_counter() - began) * 1000)
        return answer


def conflist(scratch: Path, name: str, subnet: str) -> Path:
    """A CNI directory with a bridge of that name."""
    directory = scratch / f"cni-{name}"
    directory.mkdir()
    bridge = {
        "type": "bridge",
        "bridge": name,
        "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    content = {"cniVersion": "0.4.0", "name": name, "plugins": [bridge, portmap]}
    (directory / "10.conflist").write_text(json.dumps(content))
    return directory


def stub(channel: grpc.Channel) -> api_pb2_grpc.RuntimeServiceStub:
    """The client's methods."""
    return api_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call] # generated without types


def ready(address: str) -> grpc.Channel:
    """A channel to a server that answers."""
    channel = grpc.insecure_channel(f"unix://{address}")
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            stub(channel).Version(api_pb2.VersionRequest(), timeout=1)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return channel


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """A process for the time of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def ocishim(scratch: Path, runtime: str, layout: Path) -> Iterator[Server]:
    """Our server."""
    address = scratch / "ocishim.sock"
    cni = conflist(scratch, BRIDGES[0], "10.97.1.0/24")
    config = scratch / "ocishim.toml"
    config.write_text(
        f'root = "{scratch}/oroot"\nstate = "{scratch}/ostate"\nlisten = "unix://{address}"\n'
        f'default_runtime = "{runtime}"\n[cni]\nconf_dir = "{cni}"\n[containers]\ncgroup_parent = "/ocibench"\n'
    )
    serve = [sys.executable, "-m", "ocishim", "serve", "--config", str(config)]
    with running(serve, scratch / "ocishim.log"):
        channel = ready(str(address))
        load = [sys.executable, "-m", "ocishim", "images", "load", str(layout), "--listen", f"unix://{address}"]
        subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
        yield Server("ocishim", channel)


@contextmanager
def containerd(scratch: Path, runtime: str, layouts: list[Path]) -> Iterator[Server]:
    """The peer."""
    address = scratch / "containerd.sock"
    cni = conflist(scratch, BRIDGES[1], "10.97.2.0/24")
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    config = scratch / "containerd.toml"
    config.write_text(
        f'version = 2\nroot = "{scratch}/croot"\nstate = "{scratch}/cstate"\n[grpc]\naddress = "{address}"\n'
        f'[{cri}]\nsandbox_image = "{PAUSE}"\nstream_server_port = "0"\nrestrict_oom_score_adj = true\n'
        f'disable_apparmor = true\n[{cri}.cni]\nconf_dir = "{cni}"\nbin_dir = "/usr/lib/cni"\n'
        f'[{cri}.containerd]\ndefault_runtime_name = "bench"\n'
        f'[{cri}.containerd.runtimes.bench]\nruntime_type = "io.containerd.runc.v2"\n'
        f'[{cri}.containerd.runtimes.bench.options]\nBinaryName = "/usr/bin/{runtime}"\n'
    )
    with running(["/usr/bin/containerd", "--config", str(config)], scratch / "containerd.log"):
        channel = ready(str(address))
        for layout in layouts:
            tar = scratch / f"{layout.name}.tar"
            with tarfile.open(tar, "w") as archive:
                archive.add(layout, arcname=".")
            load = ["/usr/bin/ctr", "-a", str(address), "-n", "k8s.io", "images", "import", str(tar)]
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
        yield Server("containerd", channel)


def one_round(server: Server, number: int) -> None:
    """One pod with one container, from start to end."""
    runtime = stub(server.channel)
    pod = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=f"bench-{number}", namespace="bench", uid=f"{number}"),
        linux=api_pb2.LinuxPodSandboxConfig(
            security_context=api_pb2.LinuxSandboxSecurityContext(
                namespace_options=api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
            )
        ),
    )
    container = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image=IMAGE),
        command=["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"],
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(
                namespace_options=api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
            )
        ),
    )
    sandbox_id = server.timed(
        "RunPodSandbox", runtime.RunPodSandbox, api_pb2.RunPodSandboxRequest(config=pod)
    ).pod_sandbox_id
    create = api_pb2.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=pod)
    container_id = server.timed("CreateContainer", runtime.CreateContainer, create).container_id
    server.timed("StartContainer", runtime.StartContainer, api_pb2.StartContainerRequest(container_id=container_id))
    exec_sync = api_pb2.ExecSyncRequest(container_id=container_id, cmd=["/bin/true"])
    server.timed("ExecSync", runtime.ExecSync, exec_sync)
    stop = api_pb2.StopContainerRequest(container_id=container_id, timeout=5)
    server.timed("StopContainer", runtime.StopContainer, stop)
    server.timed("RemoveContainer", runtime.RemoveContainer, api_pb2.RemoveContainerRequest(container_id=container_id))
    server.timed("StopPodSandbox", runtime.StopPodSandbox, api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    remove = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
    server.timed("RemovePodSandbox", runtime.RemovePodSandbox, remove)


def report(ours: Server, peer: Server) -> list[dict[str, object]]:
    """Medians and the middle half of each step, in milliseconds, and the ratio of the medians."""
    rows: list[dict[str, object]] = []
    for server in (ours, peer):
        server.times["all of a pod's life"] = [sum(each) for each in zip(*server.times.values(), strict=True)]
    for step, mine in ours.times.items():
        other = peer.times[step]
        middle, reference = statistics.median(mine), statistics.median(other)
        rows.append({"step": step, "ocishim": spread(mine), "containerd": spread(other), "ratio": middle / reference})
    return rows


def spread(times: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return [round(value, 1) for value in statistics.quantiles(times, n=4)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="RPC latencies beside Debian's containerd")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    chosen = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="ocibench-", dir="/var/tmp"))
    try:
        with ExitStack() as stack:
            layouts = [scratch / "image", scratch / "pause"]
            for layout, name, command in zip(
                layouts, (IMAGE, PAUSE), (["/bin/sh"], ["/bin/sleep", "1000000"]), strict=True
            ):
                layout.mkdir()
                write_layout(layout, name, command)
            ours = stack.enter_context(ocishim(scratch, chosen.runtime, layouts[0]))
            peer = stack.enter_context(containerd(scratch, chosen.runtime, layouts))
            for number in range(chosen.rounds + 1):
                for server in (ours, peer):
                    one_round(server, number)
                print(f"\r{number}/{chosen.rounds}", end="", file=sys.stderr, flush=True)  # noqa: T201
                if number == 0:  # a warm-up, not counted
                    for server in (ours, peer):
                        server.times = {step: [] for step in STEPS}
            rows = report(ours, peer)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for bridge in BRIDGES:
            subprocess.run(["/usr/sbin/ip", "link", "delete", bridge], check=False, stderr=subprocess.DEVNULL)
    print(file=sys.stderr)  # noqa: T201
    if chosen.output == "json":
        print(json.dumps(rows))  # noqa: T201
        return 0
    print(f"{'ms: quartiles, median in the middle':36}{'ocishim':>24}{'containerd':>24}{'ratio':>8}")  # noqa: T201
    for row in rows:
        mine, other = (" / ".join(map(str, row[name])) for name in ("ocishim", "containerd"))  # type: ignore[call-overload]
        print(f"{row['step']:36}{mine:>24}{other:>24}{row['ratio']:8.2f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
