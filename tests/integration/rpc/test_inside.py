"""What a container finds of what its request asked for, read from the inside: /proc/self/status, mountinfo, id."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import POD, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

PRECONDITION, INVALID = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT
CHOWN, KILL, NET_BIND_SERVICE, NET_ADMIN = (1 << bit for bit in (0, 5, 10, 12))
DEFAULT = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
UNCONFINED = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)


def secured(**fields: Any) -> pb.LinuxContainerConfig:
    return pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**fields))


def user(number: int, **fields: Any) -> pb.LinuxContainerConfig:
    return secured(run_as_user=pb.Int64Value(value=number), **fields)


def localhost(reference: str) -> pb.SecurityProfile:
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=reference)


def privileged(pods: Pods, **fields: Any) -> str:
    context = pb.LinuxSandboxSecurityContext(privileged=True, namespace_options=POD, **fields)
    return pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)))


def status_of(text: str) -> dict[str, str]:
    """/proc/self/status by key."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def refused(node: Node, sandbox_id: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="n"), image=pb.ImageSpec(image="busybox"), command=["true"], **fields
    )
    answer = refusal(node.runtime.CreateContainer, pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config))
    assert not node.runtime.ListContainers(pb.ListContainersRequest()).containers
    return answer


@pytest.fixture
def pod(pods: Pods) -> str:
    return pods.run()


# Whom it runs as


@pytest.mark.parametrize(
    ("fields", "groups"),
    [
        ({"supplemental_groups": [77]}, "1000 10 77"),
        ({"supplemental_groups": [77], "supplemental_groups_policy": pb.Strict}, "1000 77"),
        ({"supplemental_groups_policy": pb.Strict, "run_as_group": pb.Int64Value(value=5)}, "5"),
    ],
)
def test_groups_are_merged_or_strict(pods: Pods, pod: str, fields: dict[str, Any], groups: str) -> None:
    found = status_of(pods.output(pod, "cat", "/proc/self/status", linux=user(1000, **fields)))
    assert set(found["Groups"].split()) == set(groups.split())
    assert found["Uid"].split() == ["1000"] * 4


# What it may do


def sets(pods: Pods, pod: str, linux: pb.LinuxContainerConfig) -> dict[str, int]:
    found = status_of(pods.output(pod, "cat", "/proc/self/status", linux=linux))
    return {key: int(found[f"Cap{key}"], 16) for key in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


def test_roots_capabilities_are_effective_and_none_is_inherited(pods: Pods, pod: str) -> None:
    found = sets(pods, pod, secured(capabilities=pb.Capability(add_capabilities=["net_admin"])))
    assert found["Eff"] == found["Prm"] == found["Bnd"]
    assert found["Eff"] & (CHOWN | NET_ADMIN) == CHOWN | NET_ADMIN
    assert (found["Inh"], found["Amb"]) == (0, 0)


def test_another_users_capabilities_are_the_ambient_ones(pods: Pods, pod: str) -> None:
    ambient = pb.Capability(drop_capabilities=["ALL"], add_ambient_capabilities=["CAP_NET_BIND_SERVICE"])
    found = sets(pods, pod, user(1000, capabilities=ambient))
    assert set(found.values()) == {NET_BIND_SERVICE}
    plain = sets(pods, pod, user(1000))
    assert (plain["Eff"], plain["Amb"]) == (0, 0)
    assert plain["Bnd"] & KILL


@pytest.mark.parametrize(
    ("profile", "filtered", "may_unshare"),
    [(None, "0", True), (UNCONFINED, "0", True), (DEFAULT, "2", False)],
)
def test_the_default_seccomp_profile_keeps_a_container_from_new_namespaces(
    pods: Pods, pod: str, profile: pb.SecurityProfile | None, filtered: str, *, may_unshare: bool
) -> None:
    linux = secured(seccomp=profile) if profile is not None else secured()
    script = "grep ^Seccomp: /proc/self/status; unshare -U true && echo made || echo $?"
    said = pods.output(pod, "sh", "-c", script, linux=linux).split()
    assert said[:2] == ["Seccomp:", filtered]
    assert said[2] == ("made" if may_unshare else "1")


def test_programs_run_under_the_default_profile(pods: Pods, pod: str) -> None:
    script = "(sleep 0.01 & wait); ls -l / | sort | head -n 1; echo a > /tmp/a; date; ping -c1 127.0.0.1"
    said = pods.output(pod, "sh", "-c", f"{{ {script}; }} > /dev/null && echo fine", linux=secured(seccomp=DEFAULT))
    assert said == "fine"


def test_a_localhost_profile_is_the_files(node: Node, pods: Pods, pod: str) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    file = node.scratch / "profile.json"
    file.write_text(json.dumps(profile))
    said = pods.output(pod, "sh", "-c", "mkdir /tmp/x 2>&1; echo $?", linux=secured(seccomp=localhost(str(file))))
    assert said.splitlines()[-1] == "1"
    assert "Permission denied" in said


@pytest.mark.parametrize("content", [None, "{", '{"syscalls": 1}'])
def test_a_profile_that_cannot_be_had_is_named(node: Node, pods: Pods, pod: str, content: str | None) -> None:
    file = node.scratch / "broken.json"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text(content)
    code, words = refused(node, pod, linux=secured(seccomp=localhost(str(file))))
    assert code in (PRECONDITION, INVALID)
    assert str(file) in words


def test_a_fifo_in_place_of_a_profile_does_not_hang(node: Node, pods: Pods, pod: str) -> None:
    file = node.scratch / "fifo.json"
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    assert refused(node, pod, linux=secured(seccomp=localhost(str(file))))[0] == PRECONDITION


@pytest.mark.skipif(os.path.isdir("/sys/kernel/security/apparmor"), reason="this kernel has AppArmor")
def test_apparmor_is_refused_by_name_only_where_the_kernel_has_none(node: Node, pods: Pods, pod: str) -> None:
    pods.create(pod, "true", linux=secured(apparmor=DEFAULT), name="default")
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod))
    code, words = refused(node, pods.run(), linux=secured(apparmor=localhost("mine")))
    assert code == PRECONDITION
    assert "mine" in words


@pytest.mark.skipif(os.path.exists("/sys/fs/selinux/enforce"), reason="this kernel has SELinux")
def test_selinux_is_refused_by_name_only_where_the_kernel_has_none(node: Node, pods: Pods, pod: str) -> None:
    code, words = refused(node, pod, linux=secured(selinux_options=pb.SELinuxOption(type="spc_t")))
    assert code == PRECONDITION
    assert "spc_t" in words


def test_the_requests_stop_signal_wins_over_the_images(node: Node, pods: Pods, pod: str) -> None:
    script = "trap 'exit 7' HUP; trap 'exit 8' USR1; while :; do sleep 0.05; done"
    container_id = pods.start(pod, "sh", "-c", script, image="stopper", stop_signal=pb.SIGHUP)
    pods.exec(container_id, "true")
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=20))
    ended = pods.status(container_id)
    assert (ended.exit_code, ended.stop_signal) == (7, pb.SIGHUP)


def test_the_pods_security_context_is_its_pause_processs(node: Node, pods: Pods) -> None:
    context = pb.LinuxSandboxSecurityContext(
        namespace_options=pb.NamespaceOption(pid=pb.POD),
        run_as_user=pb.Int64Value(value=77),
        run_as_group=pb.Int64Value(value=78),
        supplemental_groups=[79],
        seccomp=DEFAULT,
    )
    sandbox_id = pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)))
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
    pid = json.loads(node.runtime.PodSandboxStatus(request).info["info"])["pid"]
    found = status_of(Path(f"/proc/{pid}/status").read_text())
    assert found["Uid"].split() == ["77"] * 4
    assert found["Gid"].split() == ["78"] * 4
    assert found["Groups"].split() == ["79"]
    assert (found["Seccomp"], found["NoNewPrivs"], int(found["CapBnd"], 16)) == ("2", "1", 0)


# What it sees


def mount_of(text: str, place: str) -> tuple[set[str], set[str]]:
    """Options of the topmost mount at a place, and how it propagates, from mountinfo."""
    fields = [line.split(" ") for line in text.splitlines()]
    *_, last = (each for each in fields if each[4] == place)
    return set(last[5].split(",")), {tag.partition(":")[0] for tag in last[6 : last.index("-")]}


@pytest.fixture
def shared(node: Node) -> Iterator[Path]:
    """A directory of the host whose mounts propagate, with one mount below it."""
    top = node.scratch / "shared"
    (top / "below").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", top, top], check=True)
    subprocess.run(["mount", "--make-rshared", top], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top / "below"], check=True)
    yield top
    subprocess.run(["umount", "--recursive", "--lazy", top], check=True)


def test_mount_options_are_in_force(node: Node, pods: Pods, pod: str) -> None:
    host = node.scratch / "options"
    host.mkdir(exist_ok=True)
    mounts = [
        pb.Mount(container_path="/plain", host_path=str(host)),
        pb.Mount(container_path="/ro", host_path=str(host), readonly=True),
    ]
    text = pods.output(pod, "cat", "/proc/self/mountinfo", mounts=mounts)
    assert not {"ro", "noexec", "nodev", "nosuid"} & mount_of(text, "/plain")[0]
    assert "ro" in mount_of(text, "/ro")[0]
    assert mount_of(text, "/plain")[1] == set()


def test_read_only_is_for_the_mount_alone_or_for_all_below_it(pods: Pods, pod: str, shared: Path) -> None:
    script = "touch /v/x && echo top; touch /v/below/x && echo below; echo done"

    def written(**fields: Any) -> list[str]:
        mounts = [pb.Mount(container_path="/v", host_path=str(shared), **fields)]
        return pods.output(pod, "sh", "-c", script, mounts=mounts).split()

    assert written() == ["top", "below", "done"]
    assert written(readonly=True) == ["below", "done"]
    assert written(readonly=True, recursive_read_only=True) == ["done"]


def test_a_hosts_later_mount_reaches_a_container_that_asks_for_it(pods: Pods, pod: str, shared: Path) -> None:
    mounts = [
        pb.Mount(container_path="/slave", host_path=str(shared), propagation=pb.PROPAGATION_HOST_TO_CONTAINER),
        pb.Mount(container_path="/private", host_path=str(shared)),
    ]
    container_id = pods.sleeper(pod, mounts=mounts)
    (shared / "late").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", shared / "late"], check=True)
    (shared / "late/file").write_text("")
    assert pods.exec(container_id, "ls", "/slave/late").stdout == b"file\n"
    assert pods.exec(container_id, "ls", "/private/late").stdout == b""


def test_a_containers_mount_reaches_the_host_where_both_ways_are_asked_for(pods: Pods, shared: Path) -> None:
    mounts = [pb.Mount(container_path="/both", host_path=str(shared), propagation=pb.PROPAGATION_BIDIRECTIONAL)]
    made = "mkdir -p /both/made && mount -t tmpfs made /both/made && touch /both/made/file && sleep 1000"
    container_id = pods.start(privileged(pods), "sh", "-c", made, mounts=mounts, linux=secured(privileged=True))
    deadline = time.monotonic() + 10
    while not (shared / "made/file").exists():
        assert time.monotonic() < deadline, pods.exec(container_id, "cat", "/proc/self/mountinfo").stdout
        time.sleep(0.05)


@pytest.mark.parametrize("propagation", [pb.PROPAGATION_HOST_TO_CONTAINER, pb.PROPAGATION_BIDIRECTIONAL])
def test_propagation_from_a_private_mount_is_refused_with_what_mends_it(
    node: Node, pods: Pods, pod: str, shared: Path, propagation: int
) -> None:
    subprocess.run(["mount", "--make-rprivate", shared], check=True)
    mounts = [pb.Mount(container_path="/v", host_path=str(shared), propagation=propagation)]  # type: ignore[arg-type]
    code, words = refused(node, pod, mounts=mounts)
    assert code == PRECONDITION
    assert words.startswith("config.mounts[0].propagation")
    assert f"mount --make-rshared {shared}" in words


def test_a_link_in_the_image_leads_no_mount_out_of_it(node: Node, pods: Pods, pod: str) -> None:
    """The image's /escape is a link to ../../../../var/tmp."""
    source = node.scratch / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_text("inside")
    outside = Path("/var/tmp") / f"{node.word}-target"
    mounts = [pb.Mount(container_path=f"/escape/{node.word}-target", host_path=str(source))]
    said = pods.output(pod, "cat", f"/var/tmp/{node.word}-target/file", mounts=mounts)
    assert said == "inside"
    assert not outside.exists()


def test_the_hosts_dev_is_seen_whole_where_it_is_mounted(pods: Pods) -> None:
    mounts = [pb.Mount(container_path="/dev", host_path="/dev")]
    script = "[ -e /dev/kmsg ] && echo kmsg; grep -c ' /dev/pts ' /proc/self/mountinfo"
    context = secured(privileged=True)
    said = pods.output(privileged(pods), "sh", "-c", script, mounts=mounts, linux=context).split()
    host = Path("/proc/self/mountinfo").read_text().count(" /dev/pts ")
    assert said == ["kmsg", str(host)]


def test_a_directory_of_devices_is_given_with_its_permissions(node: Node, pods: Pods, pod: str) -> None:
    directory = node.scratch / "devices"
    directory.mkdir(exist_ok=True)
    for name, minor in (("one", 3), ("two", 5)):
        if not (directory / name).exists():
            os.mknod(directory / name, 0o20666, os.makedev(1, minor))
    devices = [pb.Device(container_path="/dev/mine", host_path=str(directory), permissions="rw")]
    script = "stat -c '%n %t:%T' /dev/mine/*; head -c 3 /dev/mine/two | wc -c; echo x > /dev/mine/one && echo written"
    said = pods.output(pod, "sh", "-c", script, devices=devices)
    assert said.splitlines() == ["/dev/mine/one 1:3", "/dev/mine/two 1:5", "3", "written"]


def test_a_device_that_is_not_granted_cannot_be_opened(pods: Pods, pod: str) -> None:
    linux = secured(capabilities=pb.Capability(add_capabilities=["MKNOD"]))
    said = pods.output(pod, "sh", "-c", "mknod /tmp/k c 1 11 && head -c 1 /tmp/k 2>&1", linux=linux)
    assert "not permitted" in said


def test_every_spec_is_read_back_by_the_strict_model(node: Node, pods: Pods, pod: str) -> None:
    from ocishim.spec.runtime import RuntimeSpec  # noqa: PLC0415 - the second reader

    container_id = pods.sleeper(pod, linux=secured(seccomp=DEFAULT))
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    written = json.loads(node.runtime.ContainerStatus(request).info["info"])["runtimeSpec"]
    assert json.loads(RuntimeSpec.model_validate(written).to_json()) == written
