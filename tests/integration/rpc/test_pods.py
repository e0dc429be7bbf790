"""Pods, as kubelet relies on them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import POD, hierarchies, refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


def status(node: Node, sandbox_id: str) -> pb.PodSandboxStatus:
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    found: pb.PodSandboxStatus = node.runtime.PodSandboxStatus(request).status
    return found


def security(**fields: object) -> pb.LinuxPodSandboxConfig:
    return pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(**fields))  # type: ignore[arg-type]


def test_a_pod_is_ready_and_has_an_address(node: Node, pods: Pods) -> None:
    config = pods.config(labels={"app": "x"}, annotations={"note": "y"})
    found = status(node, pods.run(config))
    assert found.state == pb.SANDBOX_READY
    assert found.network.ip.startswith(node.subnet)
    assert found.metadata == config.metadata
    assert (dict(found.labels), dict(found.annotations)) == ({"app": "x"}, {"note": "y"})
    assert time.time_ns() - 60 * 10**9 < found.created_at < time.time_ns()


def test_the_same_request_finds_the_same_pod(pods: Pods) -> None:
    config = pods.config()
    assert pods.run(config) == pods.run(config)


def test_simultaneous_identical_requests_make_one_pod(node: Node, pods: Pods) -> None:
    config = pods.config()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(pods.run(config))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_different_request_of_the_same_name_is_refused(node: Node, pods: Pods) -> None:
    config = pods.config()
    pods.run(config)
    config.hostname = "other"
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == grpc.StatusCode.ALREADY_EXISTS
    assert config.metadata.name in words


def test_a_caller_that_goes_away_leaves_a_pod_that_its_retry_finds(node: Node, pods: Pods) -> None:
    config = pods.config()
    code, _ = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config), timeout=0.01)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    sandbox_id = pods.run(config)
    listed = node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    assert [item.id for item in listed if item.metadata == config.metadata] == [sandbox_id]


def test_lists_filter_by_short_id_state_and_labels(node: Node, pods: Pods) -> None:
    mine = pods.run(pods.config(labels={"app": "mine", "tier": "a"}))
    other = pods.run(pods.config(labels={"app": "other"}))
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=other))

    def listed(**fields: object) -> set[str]:
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(**fields))  # type: ignore[arg-type]
        return {item.id for item in node.runtime.ListPodSandbox(request).items}

    assert listed(id=mine[:12]) == {mine}
    assert listed(id="feedfeed") == set()
    assert mine in listed(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
    assert other not in listed(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
    assert other in listed(state=pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY))
    assert listed(label_selector={"app": "mine", "tier": "a"}) == {mine}
    assert listed(label_selector={"app": "mine", "tier": "b"}) == set()


def test_stop_and_remove_are_repeatable(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    for _ in range(2):
        node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    stopped = status(node, sandbox_id)
    assert stopped.state == pb.SANDBOX_NOTREADY
    assert not stopped.HasField("network")
    for _ in range(2):
        node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    code, _ = refusal(node.runtime.PodSandboxStatus, pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id))
    assert code == NOT_FOUND


def test_stopping_a_pod_kills_its_containers(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sleep", "1000")
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert pods.status(container_id).state == pb.CONTAINER_EXITED


def test_stop_works_when_the_network_configuration_is_gone(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    (node.cni / "10.conflist").unlink()
    try:
        node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    finally:
        node.network()


def test_the_hostname_is_the_pods_and_is_cut_to_64(pods: Pods) -> None:
    sandbox_id = pods.run(pods.config(hostname="h" * 80))
    said = pods.output(sandbox_id, "sh", "-c", "hostname; cat /etc/hostname; echo $HOSTNAME")
    assert said.splitlines() == ["h" * 64] * 3


def test_resolv_conf_is_as_given(pods: Pods) -> None:
    dns = pb.DNSConfig(servers=["10.9.8.7"], searches=["a.example", "b.example"], options=["ndots:5"])
    sandbox_id = pods.run(pods.config(dns_config=dns))
    text = "nameserver 10.9.8.7\nsearch a.example b.example\noptions ndots:5"
    assert pods.output(sandbox_id, "cat", "/etc/resolv.conf") == text


def test_resolv_conf_is_the_hosts_when_none_is_given(pods: Pods) -> None:
    assert pods.output(pods.run(), "cat", "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text().rstrip("\n")


def test_sysctls_are_set_in_the_pod_only(pods: Pods) -> None:
    linux = security(namespace_options=POD)
    linux.sysctls.update({"net.ipv4.ip_local_port_range": "2000 3000", "kernel/shm_rmid_forced": "1"})
    before = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    sandbox_id = pods.run(pods.config(linux=linux))
    command = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced"
    assert pods.output(sandbox_id, "sh", "-c", command).split() == ["2000", "3000", "1"]
    assert Path("/proc/sys/net/ipv4/ip_local_port_range").read_text() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("kernel.core_pattern", "x"), ("vm.swappiness", "1"), ("net.ipv4.ip_forward", "1\n2"), ("kernel.shmmax", "1+2")],
)
def test_sysctls_that_are_not_the_pods_are_refused(node: Node, pods: Pods, name: str, value: str) -> None:
    linux = security(namespace_options=POD)
    linux.sysctls[name] = value
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config(linux=linux)))
    assert code == INVALID
    assert name in words


def test_a_host_network_pod_has_the_hosts_name_and_interfaces(node: Node, pods: Pods) -> None:
    options = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    sandbox_id = pods.run(pods.config(linux=security(namespace_options=options), hostname="ignored"))
    assert not status(node, sandbox_id).HasField("network")
    said = pods.output(sandbox_id, "sh", "-c", "hostname; readlink /proc/self/ns/net").splitlines()
    assert said == [os.uname().nodename, os.readlink("/proc/self/ns/net")]


def test_a_host_port_leads_to_the_pod_until_it_is_stopped(node: Node, pods: Pods) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mapping = pb.PortMapping(container_port=8080, host_port=port)
    sandbox_id = pods.run(pods.config(port_mappings=[mapping]))
    pods.start(sandbox_id, "nc", "-l", "-p", "8080", "-e", "/bin/echo", "reached")
    assert _says(f"{node.subnet}.1", port) == b"reached\n"
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    with pytest.raises(OSError, match="refused"):
        _says(f"{node.subnet}.1", port, within=0)


def _says(host: str, port: int, *, within: float = 3.0) -> bytes:
    deadline = time.monotonic() + within
    while True:
        try:
            with socket.create_connection((host, port), timeout=3) as connection:
                return connection.recv(100)
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def test_containers_of_a_pod_may_share_its_processes(pods: Pods) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    sandbox_id = pods.run(pods.config(linux=security(namespace_options=shared)))
    linux = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=shared))
    pods.start(sandbox_id, "sleep", "4321", linux=linux)
    seen = pods.output(sandbox_id, "ps", linux=linux)
    assert "sleep 4321" in seen
    assert "/pause" in seen


def test_a_pod_whose_pause_process_dies_is_not_ready_and_can_be_removed(node: Node, pods: Pods) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    sandbox_id = pods.run(pods.config(linux=security(namespace_options=shared)))
    linux = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=shared))
    container_id = pods.start(sandbox_id, "sleep", "1000", linux=linux)
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    os.kill(json.loads(node.runtime.PodSandboxStatus(request).info["info"])["pid"], signal.SIGKILL)
    assert pods.wait(container_id).exit_code == 128 + signal.SIGKILL
    deadline = time.monotonic() + 10
    while status(node, sandbox_id).state != pb.SANDBOX_NOTREADY:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_containers_have_processes_of_their_own_by_default(pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.start(sandbox_id, "sleep", "4321")
    assert "sleep 4321" not in pods.output(sandbox_id, "ps")


def test_containers_of_a_pod_share_network_ipc_and_shm(pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.output(sandbox_id, "sh", "-c", "echo here > /dev/shm/file")
    links = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts"
    first = pods.output(sandbox_id, "sh", "-c", links)
    assert first == pods.output(sandbox_id, "sh", "-c", links)
    assert os.readlink("/proc/self/ns/net") not in first
    assert pods.output(sandbox_id, "sh", "-c", "cat /dev/shm/file; df -k /dev/shm | tail -1").split()[:3] == [
        "here",
        "shm",
        "65536",
    ]


def test_containers_go_below_the_pods_cgroup_parent(node: Node, pods: Pods) -> None:
    linux = security(namespace_options=POD)
    linux.cgroup_parent = node.cgroup_parent("pod1")
    container_id = pods.sleeper(pods.run(pods.config(linux=linux)))
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    cgroup = json.loads(node.runtime.ContainerStatus(request).info["info"])["cgroup"]
    assert cgroup.startswith(f"{node.cgroup}/")
    assert os.path.basename(node.cgroup_parent("pod1")) in cgroup.split("/")
    assert container_id in os.path.basename(cgroup)
    assert any(Path(f"{each}{cgroup}").is_dir() for each in hierarchies())


def test_an_unknown_handler_is_refused(node: Node, pods: Pods) -> None:
    request = pb.RunPodSandboxRequest(config=pods.config(), runtime_handler="kata")
    code, words = refusal(node.runtime.RunPodSandbox, request)
    assert code == NOT_FOUND
    assert "kata" in words


def test_a_handler_picks_the_other_runtime(node: Node, pods: Pods) -> None:
    other = "runc" if node.runtime_name == "crun" else "crun"
    sandbox_id = pods.run(handler=other)
    assert pods.output(sandbox_id, "echo", "hi") == "hi"
    assert status(node, sandbox_id).runtime_handler == other


def test_without_a_network_the_node_says_so_and_recovers_without_restart(node: Node, pods: Pods) -> None:
    def condition() -> pb.RuntimeCondition:
        found = node.runtime.Status(pb.StatusRequest()).status.conditions
        ready: pb.RuntimeCondition = next(each for each in found if each.type == "NetworkReady")
        return ready

    (node.cni / "10.conflist").unlink()
    try:
        assert not condition().status
        assert condition().reason == "NetworkPluginNotReady"
        code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config()))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert str(node.cni) in words
    finally:
        node.network()
    assert condition().status
    pods.run()


FAILING = """#!/bin/sh
if [ "$CNI_COMMAND" = ADD ]; then echo '{"code": 99, "msg": "no room", "details": "all taken"}'; exit 1; fi
"""
NONSENSE = "#!/bin/sh\n[ \"$CNI_COMMAND\" = DEL ] || echo 'this is no JSON'\n"


@pytest.mark.parametrize(("script", "expected"), [(FAILING, "no room: all taken"), (NONSENSE, "this is no JSON")])
def test_a_failing_plugin_is_quoted_and_leaves_nothing(node: Node, pods: Pods, script: str, expected: str) -> None:
    plugin = node.scratch / "plugins" / "broken"
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text(script)
    plugin.chmod(0o755)
    node.network([{"type": "broken"}])
    try:
        code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config()))
        assert code == grpc.StatusCode.INTERNAL
        assert expected in words
        assert not node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    finally:
        node.network()


def test_a_missing_plugin_is_named(node: Node, pods: Pods) -> None:
    node.network([{"type": "no-such-plugin"}])
    try:
        code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config()))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert "no-such-plugin" in words
    finally:
        node.network()
