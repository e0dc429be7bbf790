"""The systemd cgroup driver, on hosts whose init is systemd: pods are slices of systemd's, containers scopes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.runtime.choice import refusal as runtime_refusal
from rpc.node import PATIENCE, POD, Node, is_cgroup_v2, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Pods

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        not Path("/run/systemd/system").is_dir(), reason="systemd is not this host's init; ./dev test-vm has one"
    ),
]
MIB = 1 << 20


@pytest.fixture(scope="module", params=["crun", "runc"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server with the systemd driver."""
    why = runtime_refusal(request.param, f"/usr/bin/{request.param}")
    assert why is None, f"{request.param} cannot run here: {why}"
    made = Node(request.param, "systemd")
    try:
        made.prepare()
        made.start()
        made.load(layout)
        yield made
        assert made.stop() == 0
    finally:
        made.clean()


def in_slice(node: Node, pod: str) -> pb.LinuxPodSandboxConfig:
    """A pod's Linux part below a slice of the node's, named by its whole path, as kubelet does."""
    parent = f"{node.cgroup}/{node.cgroup_parent(pod)}"
    context = pb.LinuxSandboxSecurityContext(namespace_options=POD)
    return pb.LinuxPodSandboxConfig(cgroup_parent=parent, security_context=context)


def limits(memory: int, cpu_quota: int = 0) -> pb.LinuxContainerConfig:
    resources = pb.LinuxContainerResources(
        memory_limit_in_bytes=memory, cpu_quota=cpu_quota, cpu_period=100_000 if cpu_quota else 0
    )
    return pb.LinuxContainerConfig(resources=resources)


def cgroup_of(node: Node, container_id: str) -> str:
    """Where the container's process is, by the kernel."""
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    return cgroup_of_process(json.loads(node.runtime.ContainerStatus(request).info["info"])["pid"])


def cgroup_of_process(pid: int) -> str:
    """On v2 the only line; on v1 that of the memory controller (cgroups(7))."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next(path for _, names, path in lines if names == "" or "memory" in names.split(","))


def value(cgroup: str, v2: str, v1: str) -> str:
    """What a cgroup's file holds: `v2` there, `v1` as controller/file on a v1 host."""
    if is_cgroup_v2():
        return Path(f"/sys/fs/cgroup{cgroup}/{v2}").read_text().strip()
    controller, name = v1.split("/")
    return Path(f"/sys/fs/cgroup/{controller}{cgroup}/{name}").read_text().strip()


def memory_limit(cgroup: str) -> int:
    return int(value(cgroup, "memory.max", "memory/memory.limit_in_bytes"))


def quota(cgroup: str) -> int:
    return int(value(cgroup, "cpu.max", "cpu/cpu.cfs_quota_us").split()[0])


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True, timeout=60 * PATIENCE)
    return done.stdout.strip()


def test_the_driver_is_told(node: Node) -> None:
    assert node.runtime.RuntimeConfig(pb.RuntimeConfigRequest()).linux.cgroup_driver == pb.SYSTEMD


def test_a_container_is_a_scope_in_the_slice_that_kubelet_names(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run(pods.config(linux=in_slice(node, "poda"))))
    cgroup = cgroup_of(node, container_id)
    assert cgroup == f"{node.cgroup}/{node.cgroup_parent('poda')}/ocishim-{container_id}.scope"
    assert systemctl("show", "--property=ActiveState,Slice", os.path.basename(cgroup)).split() == [
        f"Slice={node.cgroup_parent('poda')}",
        "ActiveState=active",
    ]


def test_a_pod_without_a_parent_gets_a_slice_of_its_own(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    slice_name = os.path.basename(os.path.dirname(cgroup_of(node, container_id)))
    assert slice_name == node.cgroup_parent(sandbox_id)
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert systemctl("is-active", slice_name) == "inactive"


def test_the_monitor_is_accounted_to_the_pod(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run(pods.config(linux=in_slice(node, "podm"))))
    monitors = [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdigit() and _command(pid).startswith("/usr/bin/conmon") and container_id in _command(pid)
    ]
    parents = {os.path.dirname(cgroup_of_process(pid)) for pid in monitors}
    assert parents == {f"{node.cgroup}/{node.cgroup_parent('podm')}"}


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_limits_hold_even_when_systemd_sets_its_units_anew(node: Node, pods: Pods) -> None:
    linux = limits(64 * MIB, 20_000)
    container_id = pods.sleeper(pods.run(), linux=linux)
    cgroup = cgroup_of(node, container_id)
    assert (memory_limit(cgroup), quota(cgroup)) == (64 * MIB, 20_000)
    systemctl("daemon-reload")
    assert (memory_limit(cgroup), quota(cgroup)) == (64 * MIB, 20_000)


def test_changed_limits_hold_even_when_systemd_sets_its_units_anew(node: Node, pods: Pods) -> None:
    linux = limits(64 * MIB, 20_000)
    container_id = pods.sleeper(pods.run(), linux=linux)
    cgroup = cgroup_of(node, container_id)
    wanted = pb.LinuxContainerResources(memory_limit_in_bytes=96 * MIB, cpu_quota=30_000)
    request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=wanted)
    node.runtime.UpdateContainerResources(request)
    assert (memory_limit(cgroup), quota(cgroup)) == (96 * MIB, 30_000)
    systemctl("daemon-reload")
    systemctl("set-property", "--runtime", os.path.basename(cgroup), "TasksMax=1000")
    assert (memory_limit(cgroup), quota(cgroup)) == (96 * MIB, 30_000)


def test_a_pods_own_slice_has_its_containers_sum_and_its_overhead(node: Node, pods: Pods) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=POD)
    linux = pb.LinuxPodSandboxConfig(
        security_context=context,
        resources=pb.LinuxContainerResources(memory_limit_in_bytes=128 * MIB),
        overhead=pb.LinuxContainerResources(memory_limit_in_bytes=32 * MIB),
    )
    container_id = pods.sleeper(pods.run(pods.config(linux=linux)))
    slice_cgroup = os.path.dirname(cgroup_of(node, container_id))
    assert memory_limit(slice_cgroup) == 160 * MIB
    systemctl("daemon-reload")
    assert memory_limit(slice_cgroup) == 160 * MIB


def test_a_container_that_outgrows_its_memory_is_oom_killed(pods: Pods) -> None:
    script = "x=a; while :; do x=$x$x; done"
    linux = limits(24 * MIB)
    ended = pods.wait(pods.start(pods.run(), "sh", "-c", script, linux=linux), within=60)
    assert ended.reason == "OOMKilled"


def test_a_command_runs_in_the_containers_scope(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run())
    directory = f"/sys/fs/cgroup{'' if is_cgroup_v2() else '/memory'}{cgroup_of(node, container_id)}"
    before = set(Path(directory, "cgroup.procs").read_text().split())
    pods.exec(container_id, "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    assert set(Path(directory, "cgroup.procs").read_text().split()) > before


def test_a_shared_pid_namespaces_pause_process_is_in_the_slice(node: Node, pods: Pods) -> None:
    linux = in_slice(node, "podp")
    linux.security_context.namespace_options.pid = pb.POD
    sandbox_id = pods.run(pods.config(linux=linux))
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    pid = json.loads(node.runtime.PodSandboxStatus(request).info["info"])["pid"]
    assert os.path.dirname(cgroup_of_process(pid)) == f"{node.cgroup}/{node.cgroup_parent('podp')}"


def test_a_scope_stopped_by_the_administrator_is_an_exit(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run())
    systemctl("stop", os.path.basename(cgroup_of(node, container_id)))
    assert pods.wait(container_id).exit_code in (0, 128 + signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_server_takes_slices_and_scopes_over(node: Node, pods: Pods, number: int) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    cgroup = cgroup_of(node, container_id)
    node.restart(number)
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING
    assert cgroup_of(node, container_id) == cgroup
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert systemctl("is-active", os.path.basename(cgroup)) == "inactive"


@pytest.mark.parametrize("parent", ["/kubepods/pod1", "kubepods", "-.slice", "a--b.slice", "/x.slice/y.slice"])
def test_what_is_no_slice_is_refused_with_its_name(node: Node, pods: Pods, parent: str) -> None:
    linux = pb.LinuxPodSandboxConfig(cgroup_parent=parent)
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config(linux=linux)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert parent in words
