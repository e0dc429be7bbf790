"""Pods with a user namespace of their own: root inside is nobody on the host, and still owns what is the pod's."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb
from images import making

from ocishim.api.runtime import v1
from ocishim.linux import mount
from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

FIRST, SECOND, LENGTH = 200_000, 400_000, 65_536


def ids(host: int, length: int = LENGTH) -> list[pb.IDMapping]:
    return [pb.IDMapping(host_id=host, container_id=0, length=length)]


def options(host: int = FIRST, length: int = LENGTH, **modes: Any) -> pb.NamespaceOption:
    users = pb.UserNamespace(mode=pb.POD, uids=ids(host, length), gids=ids(host, length))
    modes.setdefault("pid", pb.CONTAINER)
    return pb.NamespaceOption(userns_options=users, **modes)


def pod(
    pods: Pods, host: int = FIRST, *, length: int = LENGTH, sysctls: dict[str, str] | None = None, **modes: Any
) -> str:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(host, length, **modes))
    return pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context, sysctls=sysctls or {})))


def said(pods: Pods, container_id: str, *command: str) -> str:
    """What a command says in a container; it must succeed."""
    answer = pods.exec(container_id, *command)
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout.decode().strip()


def container_pid(node: Node, container_id: str) -> int:
    return int((node.state / "containers" / container_id / "pidfile").read_text())


def mapped(host_path: Path, container_path: str = "/vol", host: int = FIRST, **fields: Any) -> pb.Mount:
    return pb.Mount(
        container_path=container_path, host_path=str(host_path), uidMappings=ids(host), gidMappings=ids(host), **fields
    )


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


def test_a_volume_with_the_pods_ids_is_owned_as_on_disk(node: Node, pods: Pods) -> None:
    volume = node.scratch / "volume"
    (volume / "below").mkdir(parents=True)
    (volume / "file").write_text("mine")
    os.chown(volume / "below", 7, 8)
    container_id = pods.sleeper(
        pod(pods), mounts=[mapped(volume), mapped(volume / "file", "/etc/one"), mapped(volume, "/ro", readonly=True)]
    )
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol/file", "/vol/below", "/etc/one").split() == [
        "0:0",
        "7:8",
        "0:0",
    ]
    said(pods, container_id, "sh", "-c", "echo x > /vol/new; chown 5:6 /vol/new; echo y > /etc/one")
    found = (volume / "new").stat()
    assert (found.st_uid, found.st_gid) == (5, 6)
    assert (volume / "file").read_text() == "y\n"
    assert b"Read-only" in pods.exec(container_id, "touch", "/ro/x").stderr


def test_a_volume_without_mappings_belongs_to_nobody(node: Node, pods: Pods) -> None:
    volume = node.scratch / "plain"
    volume.mkdir(exist_ok=True)
    container_id = pods.sleeper(pod(pods), mounts=[pb.Mount(container_path="/vol", host_path=str(volume))])
    assert said(pods, container_id, "stat", "-c", "%u", "/vol") == "65534"
    assert pods.exec(container_id, "touch", "/vol/x").exit_code != 0


def test_ids_of_a_mount_are_mapped_without_a_user_namespace_too(node: Node, pods: Pods) -> None:
    volume = node.scratch / "shifted"
    volume.mkdir(exist_ok=True)
    (volume / "file").touch()
    two = [
        pb.IDMapping(container_id=0, host_id=1000, length=1),
        pb.IDMapping(container_id=1, host_id=SECOND, length=9),
    ]
    mount = pb.Mount(container_path="/vol", host_path=str(volume), uidMappings=two, gidMappings=two)
    container_id = pods.sleeper(pods.run(), mounts=[mount])
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol/file") == "1000:1000"
    said(pods, container_id, "chown", f"{SECOND + 3}:1000", "/vol/file")
    assert (volume / "file").stat().st_uid == 4


def test_a_volume_that_cannot_be_mapped_is_refused_by_name(node: Node, pods: Pods) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="busybox"), mounts=[mapped(Path("/proc"))]
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pod(pods), config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "config.mounts[0]" in words
    assert "(proc)" in words


def test_mounts_in_a_mapped_volume_stay_on_the_host(node: Node, pods: Pods, shared_volume: Path) -> None:
    sandbox_id = pod(pods)
    container_id = pods.sleeper(
        sandbox_id, mounts=[mapped(shared_volume, propagation=pb.PROPAGATION_HOST_TO_CONTAINER)]
    )
    assert said(pods, container_id, "stat", "-c", "%u", "/vol/inner/file") == "0"
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert os.path.ismount(shared_volume / "inner")


@pytest.fixture
def shared_volume(node: Node) -> Any:
    """A shared mount with another one in it, as kubelet's directories are on a systemd host."""
    volume = node.scratch / "shared"
    inner = volume / "inner"
    volume.mkdir(exist_ok=True)
    mount.mount("tmpfs", str(volume), "tmpfs")
    mount.make_shared(str(volume))
    inner.mkdir()
    mount.mount("tmpfs", str(inner), "tmpfs")
    (inner / "file").touch()
    yield volume
    mount.unmount(str(inner))
    mount.unmount(str(volume))


def test_the_pods_own_files_are_its_roots(pods: Pods) -> None:
    container_id = pods.sleeper(pod(pods))
    owners = said(pods, container_id, "stat", "-c", "%u:%g", "/etc/hostname", "/etc/resolv.conf", "/dev/shm").split()
    assert owners == ["0:0"] * 3
    said(pods, container_id, "sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf; echo x > /dev/shm/x")
    other = pods.sleeper(pod(pods), linux=user(1000, 1000))
    said(pods, other, "sh", "-c", "cat /etc/resolv.conf /etc/hostname; echo x > /dev/shm/x")


def user(uid: int, gid: int, **fields: Any) -> pb.LinuxContainerConfig:
    context = pb.LinuxContainerSecurityContext(
        run_as_user=pb.Int64Value(value=uid), run_as_group=pb.Int64Value(value=gid), **fields
    )
    return pb.LinuxContainerConfig(security_context=context)


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


def test_a_read_only_mount_is_so_to_its_depths_where_they_say_so(pods: Pods, shared_volume: Path) -> None:
    asked: dict[str, Any] = {"readonly": True, "recursive_read_only": True}
    plain = pb.Mount(container_path="/vol", host_path=str(shared_volume), **asked)
    for sandbox_id, mounted in ((pods.run(), plain), (pod(pods), mapped(shared_volume, **asked))):
        container_id = pods.sleeper(sandbox_id, mounts=[mounted])
        assert b"Read-only" in pods.exec(container_id, "touch", "/vol/inner/x").stderr


def test_an_image_volume_is_the_pods_roots(node: Node, pods: Pods, tmp_path: Path) -> None:
    made = making.image(making.tar(making.member("models/one", data=b"1")), making.tar(making.member("models/two")))
    node.load(making.write_layout(tmp_path / "layout", made, "example.com/mapped:1"))
    volume = pb.Mount(
        container_path="/vol",
        readonly=True,
        image=pb.ImageSpec(image="example.com/mapped:1"),
        uidMappings=ids(FIRST),
        gidMappings=ids(FIRST),
    )
    container_id = pods.sleeper(pod(pods), mounts=[volume])
    assert said(pods, container_id, "stat", "-c", "%u:%g", "/vol", "/vol/models/one").split() == ["0:0"] * 2
    assert said(pods, container_id, "cat", "/vol/models/one") == "1"


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
