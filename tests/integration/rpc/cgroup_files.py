"""A cgroup's limits as the kernel shows them on the host, in the same words for cgroup v1 and v2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cri_api.v1 import api_pb2 as pb

from rpc.node import hierarchies, is_cgroup_v2

if TYPE_CHECKING:
    from rpc.node import Node

UNLIMITED = 2**63 - 4096
"""v1's word for none."""


def directory(controller: str, cgroup: str) -> Path:
    """Of a cgroup in the hierarchy of a controller."""
    for hierarchy in hierarchies():
        if is_cgroup_v2() or controller in hierarchy.name.split(","):
            return Path(f"{hierarchy}{cgroup}")
    raise AssertionError(f"no hierarchy has {controller}")


def has(controller: str) -> bool:
    """Whether the host has a controller."""
    if is_cgroup_v2():
        return controller in read(controller, "", "cgroup.controllers").split()
    return any(controller in hierarchy.name.split(",") for hierarchy in hierarchies())


def read(controller: str, cgroup: str, file: str) -> str:
    """A file's content."""
    return (directory(controller, cgroup) / file).read_text().strip()


def memory(cgroup: str) -> int:
    """Bytes; UNLIMITED for none."""
    found = read("memory", cgroup, "memory.max" if is_cgroup_v2() else "memory.limit_in_bytes")
    return UNLIMITED if found == "max" else int(found)


def memory_and_swap(cgroup: str) -> int:
    """Bytes of both together."""
    if is_cgroup_v2():
        swap = read("memory", cgroup, "memory.swap.max")
        return UNLIMITED if swap == "max" else memory(cgroup) + int(swap)
    return int(read("memory", cgroup, "memory.memsw.limit_in_bytes"))


def cpu(cgroup: str) -> tuple[int, int]:
    """Quota and period in microseconds; a quota of -1 is none."""
    if is_cgroup_v2():
        quota, period = read("cpu", cgroup, "cpu.max").split()
        return (-1 if quota == "max" else int(quota)), int(period)
    return int(read("cpu", cgroup, "cpu.cfs_quota_us")), int(read("cpu", cgroup, "cpu.cfs_period_us"))


def shares(cgroup: str) -> int:
    """As they are on v1; on v2 the weight that Debian's runtimes make of them."""
    return int(read("cpu", cgroup, "cpu.weight" if is_cgroup_v2() else "cpu.shares"))


def expected_shares(asked: int) -> int:
    """What `shares` reads where these were asked for."""
    return 1 + (asked - 2) * 9999 // 262142 if is_cgroup_v2() else asked


def processors(cgroup: str) -> str:
    """The list of them."""
    return read("cpuset", cgroup, "cpuset.cpus")


def processes(cgroup: str) -> str:
    """How many there may be."""
    return read("pids", cgroup, "pids.max")


def members(controller: str, cgroup: str) -> set[int]:
    """Processes in the cgroup itself."""
    return {int(line) for line in read(controller, cgroup, "cgroup.procs").split()}


def of_process(pid: int, controller: str = "memory") -> str:
    """The path of the cgroup that a process is in."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") or (is_cgroup_v2() and not controllers):
            return path
    raise AssertionError(f"process {pid} has no cgroup of {controller}")


def of_container(node: Node, container_id: str) -> str:
    """The path of a container's cgroup, by its own account."""
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    found: str = json.loads(node.runtime.ContainerStatus(request).info["info"])["cgroup"]
    return found


def of_pod(node: Node, sandbox_id: str) -> str:
    """The path of a pod's cgroup, by its own account."""
    found: str = pod_info(node, sandbox_id)["cgroupParent"]  # type: ignore[assignment] # a string among others
    return found


def pod_info(node: Node, sandbox_id: str) -> dict[str, object]:
    """The verbose account of a pod."""
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    found: dict[str, object] = json.loads(node.runtime.PodSandboxStatus(request).info["info"])
    return found


def monitor(node: Node, container_id: str, kind: str = "containers") -> int:
    """The pid of a container's conmon."""
    below = "conmon.pid" if kind == "containers" else "pause/conmon.pid"
    return int((node.state / kind / container_id / below).read_text())
