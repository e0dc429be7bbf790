"""Containers, as kubelet relies on them."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import POD, is_cgroup_v2, refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) [FP] .*$")


def linux(**fields: object) -> pb.LinuxContainerConfig:
    return pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**fields))  # type: ignore[arg-type]


def start(node: Node, container_id: str) -> None:
    node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))


def stop(node: Node, container_id: str, timeout: int = 0) -> None:
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=timeout))


@pytest.fixture
def pod(pods: Pods) -> str:
    return pods.run()


def test_a_container_is_created_then_runs_then_has_exited(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.create(pod, "sh", "-c", "sleep 0.3; exit 3", labels={"a": "b"}, annotations={"c": "d"})
    assert pods.status(container_id).state == pb.CONTAINER_CREATED
    start(node, container_id)
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING
    ended = pods.wait(container_id)
    assert (ended.exit_code, ended.reason) == (3, "Error")
    assert 0 < ended.created_at <= ended.started_at <= ended.finished_at <= time.time_ns()
    assert ended.finished_at - ended.started_at > 250 * 10**6
    assert (dict(ended.labels), dict(ended.annotations)) == ({"a": "b"}, {"c": "d"})
    assert (ended.image.image, ended.image_ref) == ("busybox", ended.image_id)


@pytest.mark.parametrize(("command", "code", "reason"), [("true", 0, "Completed"), ("false", 1, "Error")])
def test_quick_containers_end_after_they_began(pods: Pods, pod: str, command: str, code: int, reason: str) -> None:
    ended = pods.wait(pods.start(pod, command))
    assert (ended.exit_code, ended.reason) == (code, reason)
    assert ended.created_at <= ended.started_at <= ended.finished_at


def test_the_same_request_finds_the_same_container_and_another_is_refused(node: Node, pods: Pods, pod: str) -> None:
    first = pods.create(pod, "true", name="same")
    assert pods.create(pod, "true", name="same") == first
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="same"), image=pb.ImageSpec(image="busybox"))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    assert refusal(node.runtime.CreateContainer, request)[0] == grpc.StatusCode.ALREADY_EXISTS


def test_only_a_created_container_can_be_started(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.sleeper(pod)
    request = pb.StartContainerRequest(container_id=container_id)
    assert refusal(node.runtime.StartContainer, request)[0] == PRECONDITION
    stop(node, container_id)
    assert refusal(node.runtime.StartContainer, request)[0] == PRECONDITION


def test_no_container_is_made_or_started_in_a_stopped_pod(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.create(pod, "true")
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="late"), image=pb.ImageSpec(image="busybox"))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    assert refusal(node.runtime.CreateContainer, request)[0] == PRECONDITION
    assert refusal(node.runtime.StartContainer, pb.StartContainerRequest(container_id=container_id))[0] == PRECONDITION


def test_an_image_that_is_not_here_is_named(node: Node, pod: str) -> None:
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), image=pb.ImageSpec(image="absent:1"))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    code, words = refusal(node.runtime.CreateContainer, request)
    assert code == grpc.StatusCode.NOT_FOUND
    assert "absent:1" in words


@pytest.mark.parametrize(("command", "codes"), [("no-such-command", (127,)), ("/etc/notexecutable", (126, 128))])
def test_a_command_that_cannot_be_executed_fails_the_start(
    node: Node, pods: Pods, pod: str, command: str, codes: tuple[int, ...]
) -> None:
    container_id = pods.create(pod, command)
    _, words = refusal(node.runtime.StartContainer, pb.StartContainerRequest(container_id=container_id))
    ended = pods.status(container_id)
    assert (ended.state, ended.reason) == (pb.CONTAINER_EXITED, "StartError")
    assert ended.exit_code in codes
    assert ended.message in words
    assert command.rsplit("/", maxsplit=1)[-1] in words or "ermission denied" in words or "not permitted" in words


def test_stop_sends_the_stop_signal_and_waits(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    pods.exec(container_id, "true")
    stop(node, container_id, timeout=20)
    ended = pods.status(container_id)
    assert (ended.state, ended.exit_code, ended.reason) == (pb.CONTAINER_EXITED, 5, "Error")


def test_the_images_stop_signal_is_used(node: Node, pods: Pods, pod: str) -> None:
    script = "trap 'exit 6' USR1; while :; do sleep 0.05; done"
    container_id = pods.start(pod, "sh", "-c", script, image="stopper")
    pods.exec(container_id, "true")
    stop(node, container_id, timeout=20)
    assert pods.status(container_id).exit_code == 6


def test_stop_without_grace_kills_at_once(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "sleep", "1000")
    began = time.monotonic()
    stop(node, container_id)
    assert time.monotonic() - began < 9
    assert pods.status(container_id).exit_code == 128 + signal.SIGKILL


def test_a_second_stop_shortens_the_first_and_statuses_do_not_wait(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "sleep", "1000")  # the first process of a pid namespace ignores SIGTERM
    first = threading.Thread(target=stop, args=(node, container_id, 60))
    began = time.monotonic()
    first.start()
    time.sleep(0.3)
    asked = time.monotonic()
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING
    assert time.monotonic() - asked < 5
    stop(node, container_id, timeout=1)
    first.join()
    assert time.monotonic() - began < 30
    assert pods.status(container_id).exit_code == 128 + signal.SIGKILL


def test_stop_and_remove_are_repeatable(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.sleeper(pod)
    for _ in range(2):
        stop(node, container_id, timeout=5)
    for _ in range(2):
        node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    stop(node, container_id)
    code, _ = refusal(node.runtime.ContainerStatus, pb.ContainerStatusRequest(container_id=container_id))
    assert code == grpc.StatusCode.NOT_FOUND


def test_removing_a_running_container_kills_it_and_keeps_its_log(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "sh", "-c", "echo said; sleep 1000", log_path="kept.log")
    log = Path(pods.status(container_id).log_path)
    pods.exec(container_id, "true")
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    assert log.read_text().endswith("stdout F said\n")


def test_lists_filter_containers(node: Node, pods: Pods, pod: str) -> None:
    running = pods.sleeper(pod, labels={"app": "x"})
    ended = pods.start(pod, "true")
    pods.wait(ended)
    other = pods.sleeper(pods.run())

    def listed(**fields: object) -> set[str]:
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(**fields))  # type: ignore[arg-type]
        return {each.id for each in node.runtime.ListContainers(request).containers}

    assert listed() == {running, ended, other}
    assert listed(pod_sandbox_id=pod[:13]) == {running, ended}
    assert listed(state=pb.ContainerStateValue(state=pb.CONTAINER_EXITED)) == {ended}
    assert listed(label_selector={"app": "x"}) == {running}
    assert listed(id=ended[:10]) == {ended}
    assert listed(id="nope") == set()
    assert listed(state=pb.ContainerStateValue(state=pb.CONTAINER_CREATED)) == set()


def test_a_container_that_outgrows_its_memory_is_oom_killed(pods: Pods, pod: str) -> None:
    config = pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20))
    ended = pods.wait(pods.start(pod, "sh", "-c", "x=$(yes | head -c 200000000); echo $x", linux=config))
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


def test_limits_are_in_the_cgroup(pods: Pods, pod: str) -> None:
    resources = pb.LinuxContainerResources(
        memory_limit_in_bytes=64 << 20, cpu_shares=512, cpu_quota=20000, cpu_period=100000
    )
    config = pb.LinuxContainerConfig(resources=resources)
    if is_cgroup_v2():  # both runtimes turn shares of 2 to 262144 into a weight of 1 to 10000
        files, expected = "memory.max cpu.weight cpu.max", f"{64 << 20}\n20\n20000 100000"
    else:
        files, expected = "memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us", f"{64 << 20}\n512\n20000"
    assert pods.output(pod, "sh", "-c", f"cd /sys/fs/cgroup; cat {files}", linux=config) == expected


def test_the_log_has_a_line_a_line_with_time_and_stream(pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "sh", "-c", "echo out; echo err >&2; printf part", log_path="deep/er/c.log")
    ended = pods.wait(container_id)
    lines = Path(ended.log_path).read_text().splitlines()
    assert all(LOG_LINE.match(line) for line in lines)
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out", "stdout P part"]


def test_rotation_loses_no_line(node: Node, pods: Pods, pod: str) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.002; done"
    container_id = pods.start(pod, "sh", "-c", script, log_path="rotated.log")
    log = Path(pods.status(container_id).log_path)
    for number in range(3):
        time.sleep(0.1)
        log.rename(f"{log}.{number}")
        node.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=container_id))
    pods.wait(container_id, within=30)
    text = "".join(path.read_text() for path in [*(Path(f"{log}.{number}") for number in range(3)), log])
    assert [line.split(" ", 3)[3] for line in text.splitlines()] == [f"line {i}" for i in range(400)]


def test_a_stopped_containers_log_is_not_reopened(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.start(pod, "true", log_path="s.log")
    log = Path(pods.wait(container_id).log_path)
    log.unlink()
    request = pb.ReopenContainerLogRequest(container_id=container_id)
    assert refusal(node.runtime.ReopenContainerLog, request)[0] == PRECONDITION
    assert not log.exists()


def test_command_and_args_replace_the_images_as_kubernetes_says(pods: Pods, pod: str) -> None:
    assert pods.output(pod, image="entry") == "entry cmd"
    assert pods.output(pod, image="entry", args=["mine"]) == "entry mine"
    assert pods.output(pod, "/bin/echo", "mine", image="entry") == "mine"


def test_nothing_to_run_is_refused(node: Node, pod: str) -> None:
    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="n"), image=pb.ImageSpec(image="nothing"))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    assert refusal(node.runtime.CreateContainer, request)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_the_environment_has_one_value_a_name(pods: Pods, pod: str) -> None:
    envs = [pb.KeyValue(key="FROM", value="request"), pb.KeyValue(key="TWICE", value="1")]
    envs.append(pb.KeyValue(key="TWICE", value="2"))
    lines = pods.output(pod, "env", envs=envs).splitlines()
    assert {"PATH=/bin", "FROM=request", "TWICE=2", "HOME=/root"} <= set(lines)
    assert len(lines) == len({line.split("=")[0] for line in lines})


def test_the_working_directory_is_made(pods: Pods, pod: str) -> None:
    assert pods.output(pod, "pwd", image="entry") == "/srv/made"
    assert pods.output(pod, "pwd", working_dir="/deep/er") == "/deep/er"


def test_users_and_groups(pods: Pods, pod: str) -> None:
    def who(**fields: object) -> str:
        return pods.output(pod, "sh", "-c", "echo $(id -u) $(id -g) $(id -G)", linux=linux(**fields))

    assert who() == "0 0 0"
    assert who(run_as_username="alice") == "1000 1000 1000 10"
    assert who(run_as_user=pb.Int64Value(value=1000), supplemental_groups=[77]) == "1000 1000 1000 10 77"
    assert who(run_as_user=pb.Int64Value(value=4), run_as_group=pb.Int64Value(value=5)) == "4 5 5"
    assert pods.output(pod, "sh", "-c", "id -un; pwd; echo $HOME", image="user") == "alice\n/\n/home/alice"


def test_the_status_tells_whom_the_process_runs_as(pods: Pods, pod: str) -> None:
    container_id = pods.create(pod, "true", image="user")
    user = pods.status(container_id).user.linux
    assert (user.uid, user.gid, set(user.supplemental_groups)) == (1000, 1000, {10, 1000})


@pytest.mark.parametrize(
    "fields",
    [
        {"run_as_username": "stranger"},
        {"run_as_user": pb.Int64Value(value=2**31)},
        {"run_as_group": pb.Int64Value(value=5)},
        {"privileged": True},
        {"capabilities": pb.Capability(add_capabilities=["FLY"])},
    ],
)
def test_what_cannot_be_had_is_refused(node: Node, pod: str, fields: dict[str, object]) -> None:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="n"), image=pb.ImageSpec(image="busybox"), linux=linux(**fields)
    )
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config)
    assert refusal(node.runtime.CreateContainer, request)[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert not node.runtime.ListContainers(pb.ListContainersRequest()).containers


def test_mounts(node: Node, pods: Pods, pod: str) -> None:
    host = node.scratch / "data"
    host.mkdir(exist_ok=True)
    (host / "file").write_text("content")
    mounts = [
        pb.Mount(container_path="/rw", host_path=str(host)),
        pb.Mount(container_path="/ro", host_path=str(host), readonly=True),
        pb.Mount(container_path="/etc/passwd", host_path=str(host / "file")),
        pb.Mount(container_path="/rw/below", host_path=str(node.scratch / "made/by/server")),
    ]
    script = "echo new > /rw/new && cat /rw/new /etc/passwd; touch /ro/x; touch /rw/below/y"
    container_id = pods.start(pod, "sh", "-c", script, mounts=mounts, log_path="m.log")
    log = Path(pods.wait(container_id).log_path).read_text()
    assert "stdout F new" in log
    assert "content" in log
    assert "Read-only file system" in log
    assert (node.scratch / "made/by/server/y").exists()
    assert list(pods.status(container_id).mounts) == mounts


def test_a_read_only_root_has_a_writable_shm(pods: Pods, pod: str) -> None:
    script = "touch /x || echo refused; touch /dev/shm/x && echo written"
    assert pods.output(pod, "sh", "-c", script, linux=linux(readonly_rootfs=True)) == "refused\nwritten"


def test_capabilities_are_added_and_dropped(pods: Pods, pod: str) -> None:
    def effective(**fields: object) -> int:
        said = pods.output(pod, "grep", "CapEff", "/proc/self/status", linux=linux(**fields))
        return int(said.split()[1], 16)

    chown, net_admin = 1 << 0, 1 << 12
    assert effective() & (chown | net_admin) == chown
    both = pb.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["CAP_CHOWN"])
    assert effective(capabilities=both) & (chown | net_admin) == net_admin
    assert effective(capabilities=pb.Capability(drop_capabilities=["ALL"])) == 0


def test_security_settings_reach_the_process(pods: Pods, pod: str) -> None:
    context = linux(no_new_privs=True, seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault))
    said = pods.output(pod, "grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status", linux=context)
    assert said.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    assert pods.output(pod, "grep", "^Seccomp:", "/proc/self/status").split() == ["Seccomp:", "0"]


def test_masked_and_read_only_paths(pods: Pods, pod: str) -> None:
    context = linux(masked_paths=["/etc/group", "/proc/kcore"], readonly_paths=["/proc/sys"])
    script = "cat /etc/group; echo x > /proc/sys/kernel/hostname; echo $?"
    assert pods.output(pod, "sh", "-c", script, linux=context) == "1"


def test_a_privileged_container_has_devices_and_capabilities(pods: Pods) -> None:
    context = pb.LinuxSandboxSecurityContext(privileged=True, namespace_options=POD)
    pod = pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)))
    script = "[ -e /dev/kmsg ] && [ -w /sys/kernel ] && grep CapBnd /proc/self/status"
    said = pods.output(pod, "sh", "-c", script, linux=linux(privileged=True))
    assert said.split()[1] == next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")
    )


def test_devices_of_the_request(pods: Pods, pod: str) -> None:
    devices = [pb.Device(host_path="/dev/kmsg", container_path="/dev/mine", permissions="r")]
    assert pods.output(pod, "sh", "-c", "stat -c %t:%T /dev/mine", devices=devices) == "1:b"


def test_a_terminal(pods: Pods, pod: str) -> None:
    said = pods.output(pod, "sh", "-c", "[ -t 1 ] && echo $TERM", tty=True)
    assert said.rstrip("\r") == "xterm"


def test_verbose_status_is_json_for_crictl(node: Node, pods: Pods, pod: str) -> None:
    container_id = pods.sleeper(pod)
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    info = json.loads(node.runtime.ContainerStatus(request).info["info"])
    assert info["sandboxID"] == pod
    assert Path(f"/proc/{info['pid']}/cmdline").read_bytes().startswith(b"sh\0")
    assert info["runtimeSpec"]["process"]["args"][0] == "sh"
