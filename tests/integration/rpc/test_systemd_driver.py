"""The systemd driver on a host that systemd runs: slices, scopes, and limits that survive systemd's own reload."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import cgroup_files as files
from rpc import leaks
from rpc.node import POD, Node, Pods, hierarchies, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.vm
MIB = 1 << 20
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def own(node: Node, layout: Path) -> Iterator[Node]:
    """A server of these tests' own, with the systemd driver."""
    if not Path("/run/systemd/system").is_dir():
        pytest.skip("systemd is not the init system of this host")
    made = Node(node.runtime_name, "systemd")
    try:
        made.prepare()
        made.start()
        made.load(layout)
        before = leaks.held(made)
        yield made
        leaked = leaks.compare(made, before)
        assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{made.log()}"
        assert made.word not in systemctl("list-units", "--all", "--plain", "--no-legend", f"{made.word}-*")
    finally:
        systemctl("stop", f"{made.word}.slice")
        made.clean()


@pytest.fixture
def pods(own: Node) -> Iterator[Pods]:
    made = Pods(own)
    try:
        yield made
    finally:
        made.remove_all()


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=False, capture_output=True, text=True).stdout


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return systemctl("show", "--value", "--property", name, unit).strip()


def limited(pods: Pods, sandbox_id: str) -> str:
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_quota=20000, cpu_period=100000)
    return pods.sleeper(sandbox_id, linux=pb.LinuxContainerConfig(resources=resources))


def test_kubelet_is_told(own: Node) -> None:
    found = own.runtime.RuntimeConfig(pb.RuntimeConfigRequest()).linux.cgroup_driver
    assert found == pb.SYSTEMD


def test_a_pod_is_a_slice_and_its_container_a_scope(own: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = limited(pods, sandbox_id)
    pod = f"/{own.word}.slice/{own.word}-{sandbox_id}.slice"
    assert files.of_pod(own, sandbox_id) == pod
    cgroup = files.of_container(own, container_id)
    assert cgroup == f"{pod}/ocishim-{container_id}.scope"
    assert files.members("memory", cgroup)
    assert files.memory(cgroup) == 64 * MIB
    assert files.cpu(cgroup) == (20000, 100000)


def test_a_monitor_is_a_scope_of_the_pod_and_ends_with_it(own: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    pid = files.monitor(own, container_id)
    scope = f"ocishim-monitor-{container_id}.scope"
    assert files.of_process(pid) == f"{files.of_pod(own, sandbox_id)}/{scope}"
    assert shown(scope, "ActiveState") == "active"
    pods.remove_all()
    assert shown(scope, "ActiveState") == "inactive"


def test_a_pause_process_is_a_scope_too(own: Node, pods: Pods) -> None:
    options = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(pid=pb.POD))
    sandbox_id = pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=options)))
    pause = files.pod_info(own, sandbox_id)["pid"]
    assert isinstance(pause, int)
    assert files.of_process(pause) == f"{files.of_pod(own, sandbox_id)}/ocishim-{sandbox_id}.scope"


def test_an_update_survives_systemds_reload(own: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=96 * MIB, cpu_shares=2048, cpu_quota=34567)
    own.runtime.UpdateContainerResources(pb.UpdateContainerResourcesRequest(container_id=container_id, linux=resources))
    cgroup = files.of_container(own, container_id)
    assert files.memory(cgroup) == 96 * MIB
    assert files.cpu(cgroup) == (34567, 100000), "not rounded"
    systemctl("daemon-reload")
    assert files.memory(cgroup) == 96 * MIB
    assert files.shares(cgroup) == files.expected_shares(2048)
    assert files.cpu(cgroup)[0] in (34567, 35000)
    own.restart(signal.SIGKILL)
    assert pods.status(container_id).resources.linux.memory_limit_in_bytes == 96 * MIB
    assert files.memory(cgroup) == 96 * MIB


def test_what_the_kernel_refuses_changes_neither_files_nor_unit(own: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    cgroup = files.of_container(own, container_id)
    unit = Path(cgroup).name
    before = files.memory(cgroup), files.cpu(cgroup), shown(unit, "CPUQuotaPerSecUSec")
    resources = pb.LinuxContainerResources(cpu_quota=50000, cpuset_cpus="0-8000")
    asked = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
    code, words = refusal(own.runtime.UpdateContainerResources, asked)
    assert code == INVALID
    assert "cpuset.cpus" in words
    assert (files.memory(cgroup), files.cpu(cgroup), shown(unit, "CPUQuotaPerSecUSec")) == before


def test_a_pods_limits_are_the_slices(own: Node, pods: Pods) -> None:
    linux = pb.LinuxPodSandboxConfig(
        security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD),
        resources=pb.LinuxContainerResources(memory_limit_in_bytes=200 * MIB),
        overhead=pb.LinuxContainerResources(memory_limit_in_bytes=20 * MIB),
    )
    sandbox_id = pods.run(pods.config(linux=linux))
    pods.sleeper(sandbox_id)
    cgroup = files.of_pod(own, sandbox_id)
    assert files.memory(cgroup) == 220 * MIB
    own.runtime.UpdatePodSandboxResources(
        pb.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=sandbox_id, resources=pb.LinuxContainerResources(memory_limit_in_bytes=300 * MIB)
        )
    )
    systemctl("daemon-reload")
    assert files.memory(cgroup) == 320 * MIB


@pytest.mark.parametrize("whole", [True, False])
def test_both_ways_to_name_a_slice(own: Node, pods: Pods, whole: bool) -> None:
    name = f"{own.word}-besteffort-pod1.slice"
    path = f"/{own.word}.slice/{own.word}-besteffort.slice/{name}"
    linux = pb.LinuxPodSandboxConfig(
        cgroup_parent=path if whole else name,
        security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD),
    )
    sandbox_id = pods.run(pods.config(linux=linux))
    pods.sleeper(sandbox_id)
    assert files.of_pod(own, sandbox_id) == path
    assert files.members("memory", files.of_process(files.monitor(own, pods.sleeper(sandbox_id))))
    pods.remove_all()
    assert not any(Path(f"{each}{path}").exists() for each in hierarchies())
    systemctl("stop", f"{own.word}-besteffort.slice")


@pytest.mark.parametrize("parent", ["/kubepods/pod1", "-.slice", "/elsewhere/a-b.slice"])
def test_cgroupfs_notation_and_garbage_are_refused(own: Node, pods: Pods, parent: str) -> None:
    request = pb.RunPodSandboxRequest(config=pods.config(linux=pb.LinuxPodSandboxConfig(cgroup_parent=parent)))
    code, words = refusal(own.runtime.RunPodSandbox, request)
    assert code == INVALID
    assert words.startswith("config.linux.cgroup_parent")


def test_a_container_that_is_killed_leaves_no_unit(own: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    own.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    assert pods.status(container_id).exit_code == 137
    own.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    assert shown(f"ocishim-{container_id}.scope", "ActiveState") == "inactive"
