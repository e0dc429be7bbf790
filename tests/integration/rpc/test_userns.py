"""Pods with a user namespace of their own: root inside is nobody on the host, and still owns what is the pod's."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.api.runtime import v1
from ocishim.errors import OperationFailed
from ocishim.linux import userns
from ocishim.translate.userns import IdMappings, IdRange
from rpc.mapped import FIRST, LENGTH, SECOND, container_pid, ids, mapped, options, pod, said, user
from rpc.node import refusal

WCLONE = -0x80000000
"""__WCLONE of waitpid(2), as a C int: children that end without SIGCHLD, and no others."""

if TYPE_CHECKING:
    from pathlib import Path

    from rpc.node import Node, Pods


def test_root_in_the_pod_is_a_user_of_the_range_on_the_host(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    assert said(pods, container_id, "cat", "/proc/self/uid_map").split() == ["0", str(FIRST), str(LENGTH)]
    assert said(pods, container_id, "cat", "/proc/self/gid_map").split() == ["0", str(FIRST), str(LENGTH)]
    assert said(pods, container_id, "id", "-u") == "0"
    assert os.stat(f"/proc/{container_pid(node, container_id)}").st_uid == FIRST


def test_files_of_the_image_are_owned_by_the_pods_root(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/bin/busybox", "/", "/etc/passwd").split() == ["0:0"] * 3
    rootfs = node.state / "containers" / container_id / "rootfs"
    assert (rootfs / "bin/busybox").stat().st_uid == FIRST
    assert rootfs.stat().st_uid == FIRST


def test_what_the_pod_writes_belongs_to_its_range(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    said(pods, container_id, "sh", "-c", "echo a > /new; echo b >> /etc/passwd; echo c > /owned; chown 1000:50 /owned")
    upper = node.root / "containers" / container_id / "upper"
    owners = [
        (found.st_uid, found.st_gid) for name in ("new", "etc/passwd", "owned") if (found := (upper / name).stat())
    ]
    assert owners == [(FIRST, FIRST), (FIRST, FIRST), (FIRST + 1000, FIRST + 50)]
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/owned") == "1000:50"


def test_pods_of_one_image_with_other_ranges_share_its_layers(node: Node, pods: Pods) -> None:
    containers = [pods.sleeper(pod(pods, host)) for host in (FIRST, SECOND)]
    layers = node.root / "images/layers"
    before = set(layers.rglob("*"))
    for container_id in containers:
        said(pods, container_id, "sh", "-c", "test $(stat -c %u /bin/busybox) = 0 && echo x > /etc/x")
    assert {os.stat(f"/proc/{container_pid(node, each)}").st_uid for each in containers} == {FIRST, SECOND}
    for container_id in containers:
        assert not (node.root / "containers" / container_id / "upper/bin").exists()
    assert set(layers.rglob("*")) == before


def test_a_working_directory_that_is_made_is_the_pods(pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods), working_dir="/deep/down")
    assert said(pods, container_id, "stat", "-c", "%u", "/deep", "/deep/down").split() == ["0", "0"]


def test_the_pods_own_files_are_its_roots(pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    owners = said(pods, container_id, "stat", "-c", "%u:%g", "/etc/hostname", "/etc/resolv.conf", "/dev/shm").split()
    assert owners == ["0:0"] * 3
    said(pods, container_id, "sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf; echo x > /dev/shm/x")
    other = pods.sleeper(pod(pods), linux=user(1000, 1000))
    said(pods, other, "sh", "-c", "cat /etc/resolv.conf /etc/hostname; echo x > /dev/shm/x")


def test_users_and_groups_are_the_pods(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods), linux=user(1000, 50, supplemental_groups=[60]))
    assert said(pods, container_id, "id").startswith("uid=1000(alice) gid=50(staff) groups=10(wheel),50(staff),60")
    found = os.stat(f"/proc/{container_pid(node, container_id)}")
    assert (found.st_uid, found.st_gid) == (FIRST + 1000, FIRST + 50)
    assert pods.status(container_id).user.linux.uid == 1000


def test_a_user_that_the_pod_does_not_have_is_refused(node: Node, pods: Pods) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"), linux=user(LENGTH, 0)
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pod(pods), config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"user {LENGTH} is not mapped" in words


def test_a_pod_of_few_ids_works(pods: Pods) -> None:
    sandbox_id = pod(pods, length=4, pid=pb.POD)
    container_id = pods.sleeper(sandbox_id)
    assert said(pods, container_id, "cat", "/proc/self/uid_map").split() == ["0", str(FIRST), "4"]


def test_root_may_configure_the_pods_network(pods: Pods) -> None:
    context = pb.LinuxContainerSecurityContext(capabilities=pb.Capability(add_capabilities=["NET_ADMIN"]))
    container_id = pods.sleeper(pod(pods), linux=pb.LinuxContainerConfig(security_context=context))
    said(pods, container_id, "ip", "link", "add", "bridge9", "type", "bridge")
    said(pods, container_id, "ip", "addr", "add", "192.0.2.9/24", "dev", "lo")
    assert "192.0.2.9" in said(pods, container_id, "ip", "addr", "show", "dev", "lo")
    assert said(pods, container_id, "ls", "/sys/class/net/eth0/address")


def test_sysctls_and_groups_that_may_ping_are_the_pods(node: Node, pods: Pods) -> None:
    given = {"net.ipv4.ping_group_range": "0 1000", "kernel.shm_rmid_forced": "1"}
    sandbox_id = pod(pods, sysctls=given)
    container_id = pods.sleeper(sandbox_id, linux=user(1000, 1000))
    assert said(pods, container_id, "cat", "/proc/sys/net/ipv4/ping_group_range").split() == ["0", "1000"]
    assert said(pods, container_id, "cat", "/proc/sys/kernel/shm_rmid_forced") == "1"
    pins = node.state / "sandboxes" / sandbox_id / "ns"
    assert may_ping(pins, 1000)
    assert not may_ping(pins, 1001)


def may_ping(pins: Path, gid: int) -> bool:
    """Whether a group of the pod may have an ICMP socket (icmp(7)); busybox's ping tries none."""
    program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)"
    enter = ["nsenter", f"--user={pins}/user", f"--net={pins}/net", "--setuid=1000", f"--setgid={gid}"]
    return subprocess.run([*enter, "/usr/bin/python3", "-c", program], check=False, capture_output=True).returncode == 0


def test_capabilities_end_at_the_user_namespace(pods: Pods) -> None:
    context = pb.LinuxContainerSecurityContext(capabilities=pb.Capability(add_capabilities=["SYS_ADMIN", "MKNOD"]))
    container_id = pods.sleeper(pod(pods), linux=pb.LinuxContainerConfig(security_context=context))
    said(pods, container_id, "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    assert pods.exec(container_id, "mknod", "/disk", "b", "8", "0").exit_code != 0
    assert pods.exec(container_id, "sh", "-c", "echo x > /proc/sys/kernel/core_pattern").exit_code != 0


def test_a_privileged_container_is_root_of_its_namespaces_only(pods: Pods) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(), privileged=True)
    sandbox_id = pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)))
    privileged = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))
    container_id = pods.sleeper(sandbox_id, linux=privileged)
    said(pods, container_id, "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    assert pods.exec(container_id, "sh", "-c", "echo x > /proc/sys/kernel/core_pattern").exit_code != 0


def test_containers_share_the_pods_processes(node: Node, pods: Pods) -> None:
    sandbox_id = pod(pods, pid=pb.POD)
    one = pods.sleeper(sandbox_id)
    other = pods.sleeper(sandbox_id)
    assert said(pods, one, "readlink", "/proc/self/ns/pid") == said(pods, other, "readlink", "/proc/self/ns/pid")
    assert "/pause" in said(pods, other, "cat", "/proc/1/cmdline")
    assert said(pods, other, "stat", "-c", "%u", "/proc/1") == "65535"
    assert said(pods, one, "readlink", "/proc/self/ns/user") == said(pods, other, "readlink", "/proc/self/ns/user")


@pytest.mark.parametrize("kind", ["network", "ipc", "pid"])
def test_the_hosts_namespaces_can_be_joined(pods: Pods, kind: str) -> None:
    joined: dict[str, Any] = {kind: pb.NODE}
    container_id = pods.sleeper(
        pod(pods, **joined),
        linux=pb.LinuxContainerConfig(
            security_context=pb.LinuxContainerSecurityContext(namespace_options=options(**joined))
        ),
    )
    name = {"network": "net"}.get(kind, kind)
    assert said(pods, container_id, "readlink", f"/proc/self/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    assert said(pods, container_id, "cat", "/proc/self/uid_map").split()[1] == str(FIRST)
    assert "net" in said(pods, container_id, "ls", "/sys/class")
    said(pods, container_id, "ls", "/proc/self/fd")
    if kind != "ipc" or os.path.isdir("/dev/mqueue"):
        said(pods, container_id, "ls", "/dev/mqueue")
    assert pods.exec(container_id, "ip", "link", "set", "lo", "down").exit_code != 0


def test_an_own_pid_namespace_of_another_container_is_joined(pods: Pods) -> None:
    sandbox_id = pod(pods)
    target = pods.sleeper(sandbox_id)
    joining = options(pid=pb.TARGET, target_id=target)
    container_id = pods.sleeper(
        sandbox_id,
        linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=joining)),
    )
    assert said(pods, container_id, "readlink", "/proc/self/ns/pid") == said(
        pods, target, "readlink", "/proc/self/ns/pid"
    )


def test_a_terminal_works(pods: Pods) -> None:
    assert pods.output(pod(pods), "sh", "-c", "tty; stat -c %u:%g $(tty)", tty=True).split() == ["/dev/pts/0", "0:5"]


def test_the_status_tells_the_mappings(node: Node, pods: Pods) -> None:
    sandbox_id = pod(pods)
    status = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert status.linux.namespaces.options == options()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_such_pods_outlive_the_server(node: Node, pods: Pods, number: int) -> None:
    volume = node.scratch / "outlives"
    volume.mkdir(exist_ok=True)
    sandbox_id = pod(pods, pid=pb.POD)
    container_id = pods.sleeper(sandbox_id, mounts=[mapped(volume)])
    node.restart(number)
    assert said(pods, container_id, "cat", "/proc/self/uid_map").split()[1] == str(FIRST)
    said(pods, container_id, "touch", "/vol/after")
    assert (volume / "after").stat().st_uid == 0
    later = pods.sleeper(sandbox_id, mounts=[mapped(volume)])
    assert said(pods, later, "readlink", "/proc/self/ns/user") == said(
        pods, container_id, "readlink", "/proc/self/ns/user"
    )
    assert sorted(path.name for path in (node.state / "sandboxes" / sandbox_id / "ns").iterdir()) == [
        "ipc",
        "net",
        "user",
        "uts",
    ]
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert not (node.state / "sandboxes" / sandbox_id).exists()
    assert (volume / "after").exists()


def test_the_handlers_say_what_they_can(node: Node) -> None:
    answer = v1.StatusResponse().parse(node.runtime.Status(pb.StatusRequest()).SerializeToString())
    features = {each.name: each.features for each in answer.runtime_handlers}
    for name in ("", node.runtime_name):
        assert features[name].user_namespaces
        assert features[name].recursive_read_only_mounts
    assert answer.features.user_namespaces_host_network
    assert answer.features.supplemental_groups_policy


def test_many_pods_at_once_have_each_their_own(node: Node, pods: Pods) -> None:
    def run(number: int) -> tuple[str, str]:
        sandbox_id = pod(pods, FIRST + number * LENGTH)
        return sandbox_id, said(pods, pods.sleeper(sandbox_id), "cat", "/proc/self/uid_map").split()[1]

    with ThreadPoolExecutor(8) as threads:
        found = dict(threads.map(run, range(8)))
    assert {int(host) for host in found.values()} == {FIRST + number * LENGTH for number in range(8)}


def test_a_pod_that_fails_leaves_no_namespace(node: Node, pods: Pods) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options())
    linux = pb.LinuxPodSandboxConfig(security_context=context, sysctls={"net.ipv4.ip_forward": "many"})
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pods.config(linux=linux)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "net.ipv4.ip_forward" in words
    assert list((node.state / "sandboxes").iterdir()) == []


def test_a_container_as_kubelet_asks_for_it_runs(pods: Pods) -> None:
    context = pb.LinuxContainerSecurityContext(
        namespace_options=options(),
        readonly_rootfs=True,
        no_new_privs=True,
        masked_paths=["/proc/asound", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        readonly_paths=["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
        capabilities=pb.Capability(drop_capabilities=["ALL"], add_capabilities=["CHOWN"]),
    )
    resources = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=100, oom_score_adj=900)
    linux = pb.LinuxContainerConfig(security_context=context, resources=resources)
    container_id = pods.sleeper(pod(pods, pid=pb.POD), linux=linux)
    said(pods, container_id, "sh", "-c", "echo x > /dev/null; head -c 4 /dev/urandom > /dev/shm/x; ls /sys/fs/cgroup/")
    assert b"Read-only" in pods.exec(container_id, "touch", "/x").stderr
    assert said(
        pods, container_id, "awk", "/^CapEff|^Seccomp:|^NoNewPrivs/ { print $2 }", "/proc/self/status"
    ).split() == [
        "0000000000000001",
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    ("field", "users"),
    [
        ("mode: 'CONTAINER'", pb.UserNamespace(mode=pb.CONTAINER, uids=ids(FIRST), gids=ids(FIRST))),
        ("mode: 'TARGET'", pb.UserNamespace(mode=pb.TARGET)),
        ("gids: 0 mappings", pb.UserNamespace(mode=pb.POD, uids=ids(FIRST))),
        ("uids: 2 mappings", pb.UserNamespace(mode=pb.POD, uids=ids(FIRST) * 2, gids=ids(FIRST))),
        ("uids[0].length: 0", pb.UserNamespace(mode=pb.POD, uids=ids(FIRST, 0), gids=ids(FIRST))),
        ("uids[0].host_id: 4294967290", pb.UserNamespace(mode=pb.POD, uids=ids(2**32 - 6), gids=ids(FIRST))),
    ],
)
def test_namespaces_that_cannot_be_are_refused_before_anything_is_made(
    node: Node, pods: Pods, field: str, users: pb.UserNamespace
) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=pb.NamespaceOption(userns_options=users))
    config = pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context))
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words.startswith(f"config.linux.security_context.namespace_options.userns_options.{field}")


def test_a_container_that_contradicts_its_pod_is_refused(node: Node, pods: Pods) -> None:
    context = pb.LinuxContainerSecurityContext(namespace_options=options(SECOND))
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="busybox"),
        linux=pb.LinuxContainerConfig(security_context=context),
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pod(pods), config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "differs from the pod's" in words


def test_mappings_that_the_kernel_refuses_are_told_and_leave_no_process() -> None:
    ids = (IdRange(0, FIRST, 10), IdRange(5, SECOND, 10))
    with pytest.raises(OperationFailed, match=f"uid_map .*0 {FIRST} 10.*Invalid argument"):
        userns.inside(IdMappings(ids, ids), 0, lambda _: pytest.fail("there is no such namespace"))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, WCLONE | os.WNOHANG)


def test_a_state_directory_that_only_root_may_enter_is_named(node: Node, pods: Pods) -> None:
    node.state.chmod(0o700)
    try:
        context = pb.LinuxSandboxSecurityContext(namespace_options=options())
        config = pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context))
        code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    finally:
        node.state.chmod(0o711)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"chmod o+x {node.state}" in words


def test_a_device_is_the_hosts_by_any_name(pods: Pods) -> None:
    devices = [
        pb.Device(host_path="/dev/null", container_path="/dev/void", permissions="rw"),
        pb.Device(host_path="/dev/zero", container_path="/opt/zero", permissions="r"),
        pb.Device(host_path="/dev/full", container_path="/dev/full", permissions="rw"),
    ]
    container_id = pods.sleeper(pod(pods), devices=devices)
    found = said(pods, container_id, "stat", "-c", "%F %t:%T", "/dev/void", "/opt/zero", "/dev/full").splitlines()
    assert found == [f"character special file {number}" for number in ("1:3", "1:5", "1:7")]
    said(pods, container_id, "sh", "-c", "echo x > /dev/void; head -c 1 /opt/zero")
