"""UpdateContainerResources and UpdatePodSandboxResources: what the kernel has afterwards, all of it or nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import cgroup_files as files
from rpc.node import POD, is_cgroup_v2, refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
MIB = 1 << 20
LIMITS = pb.LinuxContainerResources(
    memory_limit_in_bytes=64 * MIB, cpu_shares=512, cpu_quota=20000, cpu_period=100000, cpuset_cpus="0"
)
HOLD = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo held; sleep 1000"
"""A shell that keeps 20 MB."""


def request(container_id: str, **fields: Any) -> pb.UpdateContainerResourcesRequest:
    return pb.UpdateContainerResourcesRequest(container_id=container_id, linux=pb.LinuxContainerResources(**fields))


def update(node: Node, container_id: str, **fields: Any) -> None:
    node.runtime.UpdateContainerResources(request(container_id, **fields))


def limited(pods: Pods, sandbox_id: str) -> str:
    return pods.sleeper(sandbox_id, linux=pb.LinuxContainerConfig(resources=LIMITS))


def in_force(node: Node, container_id: str) -> tuple[object, ...]:
    """All that the kernel limits the container to."""
    cgroup = files.of_container(node, container_id)
    return (
        files.memory(cgroup),
        files.memory_and_swap(cgroup),
        files.cpu(cgroup),
        files.shares(cgroup),
        files.processors(cgroup),
    )


def test_a_running_container_is_changed_in_place(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    cgroup = files.of_container(node, container_id)
    update(
        node,
        container_id,
        memory_limit_in_bytes=128 * MIB,
        cpu_shares=2048,
        cpu_quota=30000,
        cpu_period=50000,
        cpuset_cpus="0-1" if (os.cpu_count() or 1) > 1 else "0",
    )
    assert files.memory(cgroup) == 128 * MIB
    assert files.memory_and_swap(cgroup) == 128 * MIB, "no swap unless it is asked for"
    assert files.cpu(cgroup) == (30000, 50000)
    assert files.shares(cgroup) == files.expected_shares(2048)
    if (os.cpu_count() or 1) > 1:
        assert files.processors(cgroup) == "0-1"
        assert pods.exec(container_id, "nproc").stdout == b"2\n"


def test_the_container_itself_sees_the_change(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    update(node, container_id, memory_limit_in_bytes=96 * MIB)
    file = "memory.max" if is_cgroup_v2() else "memory/memory.limit_in_bytes"
    assert int(pods.exec(container_id, "cat", f"/sys/fs/cgroup/{file}").stdout) == 96 * MIB


def test_what_is_not_named_stays(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    before = in_force(node, container_id)
    update(node, container_id)
    node.runtime.UpdateContainerResources(pb.UpdateContainerResourcesRequest(container_id=container_id))
    assert in_force(node, container_id) == before
    update(node, container_id, cpu_quota=25000)
    assert in_force(node, container_id) == (*before[:2], (25000, 100000), *before[3:])


def test_limits_go_up_and_down_again_and_away(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    cgroup = files.of_container(node, container_id)
    for size in (256, 32, 512, 16):
        update(node, container_id, memory_limit_in_bytes=size * MIB)
        assert files.memory(cgroup) == files.memory_and_swap(cgroup) == size * MIB
    update(node, container_id, memory_limit_in_bytes=64 * MIB, memory_swap_limit_in_bytes=80 * MIB)
    assert files.memory_and_swap(cgroup) == 80 * MIB
    update(node, container_id, memory_limit_in_bytes=-1, memory_swap_limit_in_bytes=-1, cpu_quota=-1)
    assert files.memory(cgroup) >= files.UNLIMITED
    assert files.cpu(cgroup) == (-1, 100000)


def test_the_status_reports_what_is_in_force(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    assert pods.status(container_id).resources.linux == LIMITS
    update(node, container_id, memory_limit_in_bytes=96 * MIB, oom_score_adj=400)
    expected = pb.LinuxContainerResources()
    expected.CopyFrom(LIMITS)
    expected.memory_limit_in_bytes, expected.oom_score_adj = 96 * MIB, 400
    assert pods.status(container_id).resources.linux == expected
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING


def test_the_oom_score_of_all_its_processes_changes(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    update(node, container_id, oom_score_adj=500)
    cgroup = files.of_container(node, container_id)
    assert pods.exec(container_id, "cat", "/proc/1/oom_score_adj").stdout == b"500\n"
    for pid in files.members("memory", cgroup):
        try:
            assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
        except (FileNotFoundError, ProcessLookupError):
            continue  # the shell's sleep, of which there is a new one each time


REFUSED: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "cpuset of processors that are not there": ({"cpuset_cpus": "0-8000"}, INVALID, "cpuset.cpus"),
    "memory node that is not there": ({"cpuset_mems": "900"}, INVALID, "cpuset.mems"),
    "pages of no such size": ({"hugepage_limits": [pb.HugepageLimit(page_size="3KB", limit=0)]}, INVALID, "3KB"),
    "memory below what is used": ({"memory_limit_in_bytes": 4096}, PRECONDITION, "memory."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_kernel_refuses_changes_nothing(node: Node, pods: Pods, what: str) -> None:
    fields, code, words = REFUSED[what]
    if "hugepage_limits" in fields and not files.has("hugetlb"):
        pytest.skip("this host has no hugetlb controller, without which limits of huge pages are ignored")
    container_id = pods.start(pods.run(), "sh", "-c", HOLD, linux=pb.LinuxContainerConfig(resources=LIMITS))
    before, status = in_force(node, container_id), pods.status(container_id)
    given = {"cpu_shares": 700, "cpu_quota": 9000, **fields}
    found = refusal(node.runtime.UpdateContainerResources, request(container_id, **given))
    assert found[0] == code
    assert words in found[1]
    assert container_id[:13] in found[1], "the container is named"
    assert in_force(node, container_id) == before
    assert pods.status(container_id) == status


def test_a_refused_update_is_not_in_the_record_either(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    status = pods.status(container_id)
    refusal(node.runtime.UpdateContainerResources, request(container_id, memory_limit_in_bytes=4096))
    node.restart()
    assert pods.status(container_id) == status


BAD: list[tuple[str, dict[str, Any]]] = [
    ("cpu_period", {"cpu_period": 1}),
    ("cpu_quota", {"cpu_quota": -2}),
    ("cpu_quota", {"cpu_quota": 5}),
    ("cpu_shares", {"cpu_shares": 1}),
    ("memory_limit_in_bytes", {"memory_limit_in_bytes": -2}),
    ("memory_swap_limit_in_bytes", {"memory_swap_limit_in_bytes": 1 * MIB}),
    ("oom_score_adj", {"oom_score_adj": 1001}),
    ("cpuset_cpus", {"cpuset_cpus": "all"}),
    ("cpuset_cpus", {"cpuset_cpus": "0-3\n4"}),
    ("cpuset_mems", {"cpuset_mems": "1-0"}),
    ("unified", {"unified": {"../memory.max": "1"}}),
    ("unified", {"unified": {"cgroup.kill": "1"}}),
    ("hugepage_limits[0].page_size", {"hugepage_limits": [pb.HugepageLimit(page_size="../x", limit=0)]}),
]


@pytest.mark.parametrize(("field", "fields"), BAD)
def test_values_that_are_none_are_named(node: Node, pods: Pods, field: str, fields: dict[str, Any]) -> None:
    container_id = limited(pods, pods.run())
    before = in_force(node, container_id)
    code, words = refusal(node.runtime.UpdateContainerResources, request(container_id, **fields))
    assert code == INVALID
    assert words.startswith(f"linux.{field}")
    assert in_force(node, container_id) == before


def test_files_of_v2(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    asked = request(container_id, unified={"memory.high": str(48 * MIB)})
    if is_cgroup_v2():
        node.runtime.UpdateContainerResources(asked)
        assert files.read("memory", files.of_container(node, container_id), "memory.high") == str(48 * MIB)
        code, words = refusal(
            node.runtime.UpdateContainerResources, request(container_id, unified={"memory.nonsense": "1"})
        )
        assert code == INVALID
        assert "memory.nonsense" in words
    else:
        code, words = refusal(node.runtime.UpdateContainerResources, asked)
        assert code == INVALID
        assert "this host has v1" in words


def test_files_of_v2_are_refused_on_v1_before_anything_is_made(node: Node, pods: Pods) -> None:
    if is_cgroup_v2():
        pytest.skip("this host has cgroup v2, where they are meant")
    resources = pb.LinuxContainerResources(unified={"memory.high": "1"})
    sandbox_id = pods.run()
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="c"),
        image=pb.ImageSpec(image="busybox"),
        linux=pb.LinuxContainerConfig(resources=resources),
    )
    asked = pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
    code, words = refusal(node.runtime.CreateContainer, asked)
    assert code == INVALID
    assert words.startswith("config.linux.resources.unified")
    pod = pods.config(linux=pb.LinuxPodSandboxConfig(resources=resources))
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=pod))
    assert code == INVALID
    assert words.startswith("config.linux.resources.unified")


def test_a_created_container_starts_with_what_it_was_changed_to(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.create(sandbox_id, "sleep", "1000", linux=pb.LinuxContainerConfig(resources=LIMITS))
    update(node, container_id, memory_limit_in_bytes=32 * MIB, cpu_quota=-1, oom_score_adj=300)
    assert pods.status(container_id).state == pb.CONTAINER_CREATED
    node.restart(signal.SIGKILL)
    assert pods.status(container_id).resources.linux.memory_limit_in_bytes == 32 * MIB
    node.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
    cgroup = files.of_container(node, container_id)
    assert files.memory(cgroup) == files.memory_and_swap(cgroup) == 32 * MIB
    assert files.cpu(cgroup) == (-1, 100000)
    assert files.processors(cgroup) == "0", "as it was made"
    assert pods.exec(container_id, "cat", "/proc/1/oom_score_adj").stdout == b"300\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_change_outlives_the_server(node: Node, pods: Pods, number: int) -> None:
    container_id = limited(pods, pods.run())
    update(node, container_id, memory_limit_in_bytes=96 * MIB, cpu_shares=300)
    before, status = in_force(node, container_id), pods.status(container_id)
    node.restart(number)
    assert pods.status(container_id) == status
    assert in_force(node, container_id) == before
    update(node, container_id, cpu_shares=400)
    assert files.memory(files.of_container(node, container_id)) == 96 * MIB


def test_a_server_killed_between_record_and_cgroup_makes_them_agree(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    update(node, container_id, memory_limit_in_bytes=96 * MIB)
    cgroup = files.of_container(node, container_id)
    node.stop(signal.SIGKILL)
    for name in ("memory.max",) if is_cgroup_v2() else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (files.directory("memory", cgroup) / name).write_text(str(64 * MIB))
    node.start()
    assert pods.status(container_id).resources.linux.memory_limit_in_bytes == 96 * MIB
    assert files.memory(cgroup) == 96 * MIB


def test_an_exited_container_has_no_limits_to_change(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "true")
    pods.wait(container_id)
    code, words = refusal(node.runtime.UpdateContainerResources, request(container_id, cpu_shares=5))
    assert code == PRECONDITION
    assert "has exited" in words


def test_unknown_ids_empty_ids_and_windows(node: Node, pods: Pods) -> None:
    assert refusal(node.runtime.UpdateContainerResources, request("f" * 64, cpu_shares=5))[0] == NOT_FOUND
    assert refusal(node.runtime.UpdateContainerResources, request("", cpu_shares=5))[0] == INVALID
    pod = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="f" * 64)
    assert refusal(node.runtime.UpdatePodSandboxResources, pod)[0] == NOT_FOUND
    assert refusal(node.runtime.UpdatePodSandboxResources, pb.UpdatePodSandboxResourcesRequest())[0] == INVALID
    container_id = limited(pods, pods.run())
    windows = pb.UpdateContainerResourcesRequest(
        container_id=container_id, windows=pb.WindowsContainerResources(cpu_shares=1)
    )
    code, words = refusal(node.runtime.UpdateContainerResources, windows)
    assert code == INVALID
    assert "windows" in words


def test_many_changes_at_once_leave_one_of_them_whole(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    threads = [
        threading.Thread(
            target=update,
            args=(node, container_id),
            kwargs={"cpu_shares": 100 + number, "memory_limit_in_bytes": (100 + number) * MIB},
        )
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    resources = pods.status(container_id).resources.linux
    cgroup = files.of_container(node, container_id)
    assert resources.memory_limit_in_bytes == resources.cpu_shares * MIB
    assert files.memory(cgroup) == resources.memory_limit_in_bytes
    assert files.shares(cgroup) == files.expected_shares(resources.cpu_shares)


def test_changes_while_the_container_ends_are_made_or_refused(node: Node, pods: Pods) -> None:
    container_id = limited(pods, pods.run())
    codes: set[grpc.StatusCode] = set()

    def go_on() -> None:
        for number in range(200):
            try:
                update(node, container_id, cpu_shares=100 + number)
            except grpc.RpcError as error:
                codes.add(error.code())

    thread = threading.Thread(target=go_on)
    thread.start()
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    thread.join()
    assert codes <= {PRECONDITION, NOT_FOUND}


# --- pods ---


def pod(pods: Pods, parent: str = "") -> pb.PodSandboxConfig:
    """With limits: 200 MiB and half a processor for containers, 20 MiB and a tenth beyond them."""
    linux = pb.LinuxPodSandboxConfig(
        cgroup_parent=parent,
        security_context=pb.LinuxSandboxSecurityContext(namespace_options=POD),
        resources=pb.LinuxContainerResources(
            memory_limit_in_bytes=200 * MIB, cpu_shares=512, cpu_quota=50000, cpu_period=100000
        ),
        overhead=pb.LinuxContainerResources(
            memory_limit_in_bytes=20 * MIB, cpu_shares=102, cpu_quota=10000, cpu_period=100000
        ),
    )
    return pods.config(linux=linux)


def test_a_pod_is_limited_to_its_containers_and_its_overhead(node: Node, pods: Pods) -> None:
    cgroup = files.of_pod(node, pods.run(pod(pods)))
    assert files.memory(cgroup) == 220 * MIB
    assert files.cpu(cgroup) == (60000, 100000)
    assert files.shares(cgroup) == files.expected_shares(614)


def test_a_cgroup_that_was_there_is_left_to_its_maker(node: Node, pods: Pods) -> None:
    kubelets = f"{node.cgroup}/kubelets"
    directories = {files.directory(controller, kubelets) for controller in ("memory", "cpu")}
    for directory in directories:
        directory.mkdir(parents=True)
    if is_cgroup_v2():
        for above in ("", node.cgroup):
            (files.directory("memory", above) / "cgroup.subtree_control").write_text("+memory +cpu")
    try:
        sandbox_id = pods.run(pod(pods, kubelets))
        update_pod(node, sandbox_id, resources=pb.LinuxContainerResources(memory_limit_in_bytes=100 * MIB))
        assert files.memory(kubelets) >= files.UNLIMITED
        assert files.cpu(kubelets)[0] == -1
        pods.remove_all()
        assert all(directory.is_dir() for directory in directories), "it is its maker's to remove"
    finally:
        for directory in directories:
            directory.rmdir()


def update_pod(node: Node, sandbox_id: str, **fields: Any) -> None:
    node.runtime.UpdatePodSandboxResources(pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id, **fields))


def test_a_pods_limits_change_in_place_and_are_recorded(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(pod(pods))
    container_id = pods.sleeper(sandbox_id)
    update_pod(node, sandbox_id, resources=pb.LinuxContainerResources(memory_limit_in_bytes=300 * MIB))
    cgroup = files.of_pod(node, sandbox_id)
    assert files.memory(cgroup) == 320 * MIB, "with the overhead, which the request does not name"
    update_pod(node, sandbox_id, overhead=pb.LinuxContainerResources(memory_limit_in_bytes=1 * MIB))
    assert files.memory(cgroup) == 301 * MIB
    node.restart(signal.SIGKILL)
    info = files.pod_info(node, sandbox_id)
    assert json.dumps(info["resources"]).count(str(300 * MIB)) == 1
    assert json.dumps(info["overhead"]).count(str(1 * MIB)) == 1
    assert pods.status(container_id).state == pb.CONTAINER_RUNNING


def test_a_pod_below_what_it_uses_is_refused_and_stays_as_it_was(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(pod(pods))
    pods.start(sandbox_id, "sh", "-c", HOLD)
    cgroup = files.of_pod(node, sandbox_id)
    wanted = pb.LinuxContainerResources(memory_limit_in_bytes=4096, cpu_shares=700)
    overhead = pb.LinuxContainerResources(memory_limit_in_bytes=4096)
    asked = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id, resources=wanted, overhead=overhead)
    code, words = refusal(node.runtime.UpdatePodSandboxResources, asked)
    assert code == PRECONDITION
    assert "memory." in words
    assert files.memory(cgroup) == 220 * MIB
    assert files.shares(cgroup) == files.expected_shares(614)


@pytest.mark.parametrize("key", ["resources", "overhead"])
def test_a_pods_values_that_are_none_are_named(node: Node, pods: Pods, key: str) -> None:
    config = pod(pods)
    getattr(config.linux, key).cpuset_cpus = "some"
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == INVALID
    assert words.startswith(f"config.linux.{key}.cpuset_cpus")
    asked = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pods.run())
    getattr(asked, key).cpu_period = 3
    code, words = refusal(node.runtime.UpdatePodSandboxResources, asked)
    assert code == INVALID
    assert words.startswith(f"{key}.cpu_period")


def test_a_stopped_pod_has_no_limits_to_change(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    asked = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id)
    assert refusal(node.runtime.UpdatePodSandboxResources, asked)[0] == PRECONDITION


def test_a_limit_that_the_kernel_refuses_leaves_no_pod(node: Node, pods: Pods) -> None:
    config = pod(pods)
    config.linux.resources.cpuset_cpus = "0-8000"
    code, words = refusal(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config))
    assert code == INVALID
    assert "cpuset.cpus" in words
    assert not node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
