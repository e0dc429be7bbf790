"""Latency of each RPC, ocishim beside Debian's containerd: same OCI runtime, same CNI network, in turn, in one run.

    sudo .venv/bin/python tests/bench/latency.py [--rounds N] [--runtime crun|runc] [--output table|json]

Starts both servers on private directories, and ends and removes them. Nothing here is a test: it only measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from cri_api.v1 import api_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

from bench.side_by_side import PAUSE, Server, containerd, ocishim, private_directory, runtime_service

IMAGE = "docker.io/library/bench:latest"


def one_round(server: Server, number: int) -> None:
    """One pod with one container, from start to end."""
    runtime = runtime_service(server.channel)
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
    with private_directory() as scratch, ExitStack() as stack:
        layouts = [scratch / "image", scratch / "pause"]
        for layout, name, command in zip(
            layouts, (IMAGE, PAUSE), (["/bin/sh"], ["/bin/sleep", "1000000"]), strict=True
        ):
            layout.mkdir()
            write_layout(layout, name, command)
        ours = stack.enter_context(ocishim(scratch, chosen.runtime, layouts[:1]))
        peer = stack.enter_context(containerd(scratch, chosen.runtime, layouts))
        for number in range(chosen.rounds + 1):
            for server in (ours, peer):
                one_round(server, number)
            print(f"\r{number}/{chosen.rounds}", end="", file=sys.stderr, flush=True)  # noqa: T201
            if number == 0:  # a warm-up, not counted
                for server in (ours, peer):
                    server.times.clear()
        rows = report(ours, peer)
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
