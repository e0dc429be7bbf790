"""What a user namespace of its own adds to a pod's start: plain pods and such pods in turn, on one server.

    sudo .venv/bin/python tests/bench/userns.py [--rounds N] [--runtime crun|runc]

Each pod has one container with four volumes, as kubelet gives it: their ids are mapped too. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from cri_api.v1 import api_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "bundles"))
from busybox_image import write_layout

from bench.side_by_side import Server, ocishim, private_directory, runtime_service

IMAGE = "docker.io/library/bench:latest"
VOLUMES = 4
FIRST, LENGTH = 1 << 20, 1 << 16


def one_round(server: Server, kind: str, number: int, scratch: Path) -> None:
    """One pod with one container, from start to end."""
    runtime = runtime_service(server.channel)
    ids = [api_pb2.IDMapping(host_id=FIRST + number * LENGTH, container_id=0, length=LENGTH)] if kind == "own" else []
    options = api_pb2.NamespaceOption(
        pid=api_pb2.CONTAINER,
        userns_options=api_pb2.UserNamespace(mode=api_pb2.POD if ids else api_pb2.NODE, uids=ids, gids=ids),
    )
    pod = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=f"{kind}-{number}", namespace="bench", uid=f"{kind}-{number}"),
        linux=api_pb2.LinuxPodSandboxConfig(
            security_context=api_pb2.LinuxSandboxSecurityContext(namespace_options=options)
        ),
    )
    container = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image=IMAGE),
        command=["/bin/sleep", "1000"],
        mounts=[
            api_pb2.Mount(
                container_path=f"/vol{each}", host_path=f"{scratch}/vol{each}", uidMappings=ids, gidMappings=ids
            )
            for each in range(VOLUMES)
        ],
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(namespace_options=options)
        ),
    )
    sandbox_id = server.timed(
        f"RunPodSandbox {kind}", runtime.RunPodSandbox, api_pb2.RunPodSandboxRequest(config=pod)
    ).pod_sandbox_id
    create = api_pb2.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=pod)
    container_id = server.timed(f"CreateContainer {kind}", runtime.CreateContainer, create).container_id
    start = api_pb2.StartContainerRequest(container_id=container_id)
    server.timed(f"StartContainer {kind}", runtime.StartContainer, start)
    exec_sync = api_pb2.ExecSyncRequest(container_id=container_id, cmd=["/bin/true"])
    server.timed(f"ExecSync {kind}", runtime.ExecSync, exec_sync)
    remove = api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
    server.timed(f"RemovePodSandbox {kind}", runtime.RemovePodSandbox, remove)


def main() -> int:
    """Measure and print medians and the middle half, in milliseconds."""
    parser = argparse.ArgumentParser(description="what a user namespace adds to a pod's start")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--runtime", choices=("crun", "runc"), default="crun")
    chosen = parser.parse_args()
    with private_directory() as scratch, ExitStack() as stack:
        scratch.chmod(0o711)  # root of the pods must get to their bundles
        layout = scratch / "image"
        layout.mkdir()
        write_layout(layout, IMAGE, ["/bin/sh"])
        server = stack.enter_context(ocishim(scratch, chosen.runtime, [layout]))
        for number in range(chosen.rounds + 1):
            for kind in ("host", "own"):
                one_round(server, kind, number, scratch)
            if number == 0:  # a warm-up, not counted
                server.times.clear()
    for step in ("RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync", "RemovePodSandbox"):
        for kind in ("host", "own"):
            low, middle, high = statistics.quantiles(server.times[f"{step} {kind}"], n=4)
            print(f"{step:18}{kind:6}{low:8.1f}{middle:8.1f}{high:8.1f}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
