"""What pods and containers use, against the kernel's own files and against workloads of known use."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import betterproto
import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.api.runtime import v1
from rpc.node import LARGEST_ANSWER, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpc.node import Node, Pods

M = TypeVar("M", bound=betterproto.Message)

SECOND = 10**9
MEGABYTE = 10**6
MEBIBYTE = 1 << 20
IS_V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
HOST_NETWORK = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)


def container_stats(node: Node, container_id: str) -> pb.ContainerStats:
    request = pb.ContainerStatsRequest(container_id=container_id)
    found: pb.ContainerStats = node.runtime.ContainerStats(request).stats
    return found


def pod_stats(node: Node, sandbox_id: str) -> pb.PodSandboxStats:
    request = pb.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id)
    found: pb.PodSandboxStats = node.runtime.PodSandboxStats(request).stats
    return found


def listed(node: Node, **wanted: Any) -> dict[str, pb.ContainerStats]:
    request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(**wanted))
    return {each.attributes.id: each for each in node.runtime.ListContainerStats(request).stats}


def listed_pods(node: Node, **wanted: Any) -> dict[str, pb.PodSandboxStats]:
    request = pb.ListPodSandboxStatsRequest(filter=pb.PodSandboxStatsFilter(**wanted))
    return {each.attributes.id: each for each in node.runtime.ListPodSandboxStats(request).stats}


def cgroup_file(node: Node, sandbox_id: str, container_id: str, controller: str, name: str) -> int:
    """A number of the container's cgroup, on either version."""
    hierarchy = "" if IS_V2 else f"/{controller}"
    path = Path(f"/sys/fs/cgroup{hierarchy}{node.cgroup}/{sandbox_id}/{container_id}/{name}")
    return int(path.read_text())


def until(found: Callable[[], bool], *, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not found():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.1)


def pid_of(node: Node, container_id: str) -> int:
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    pid: int = json.loads(node.runtime.ContainerStatus(request).info["info"])["pid"]
    return pid


def has_run(pid: int) -> int:
    """Nanoseconds that a process has been on a CPU (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_two_seconds_of_a_core_are_seen_as_time_and_as_rate(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sh", "-c", "while :; do :; done")
    pid = pid_of(node, container_id)
    first = container_stats(node, container_id).cpu
    until(lambda: has_run(pid) >= 2 * SECOND, within=60)
    least = has_run(pid)
    last = container_stats(node, container_id).cpu
    # What the OCI runtime did in the cgroup before the command began counts too, and both counters move by ticks.
    assert least - SECOND // 50 <= last.usage_core_nano_seconds.value <= has_run(pid) + SECOND // 5
    burnt = last.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value
    assert last.usage_nano_cores.value == pytest.approx(burnt * SECOND / (last.timestamp - first.timestamp), rel=0.05)
    assert pod_stats(node, sandbox_id).linux.cpu.usage_core_nano_seconds.value >= last.usage_core_nano_seconds.value


def test_fifty_allocated_megabytes_are_seen_in_the_working_set(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    hold = f"x=$(head -c {50 * MEGABYTE} /dev/zero | tr '\\0' x); echo ready > /ready; sleep 1000; true"
    container_id = pods.start(sandbox_id, "sh", "-c", hold)
    until(lambda: pods.exec(container_id, "test", "-e", "/ready").exit_code == 0)
    memory = container_stats(node, container_id).memory
    assert memory.working_set_bytes.value >= 50 * MEGABYTE
    assert memory.rss_bytes.value >= 50 * MEGABYTE
    assert memory.working_set_bytes.value <= memory.usage_bytes.value
    assert memory.page_faults.value >= 50 * MEGABYTE // 4096 // 512  # were it all in huge pages
    assert pod_stats(node, sandbox_id).linux.memory.working_set_bytes.value >= 50 * MEGABYTE


def test_what_is_available_is_the_limit_less_the_working_set(node: Node, pods: Pods) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=64 * MEBIBYTE, memory_swap_limit_in_bytes=96 * MEBIBYTE)
    sandbox_id = pods.run()
    limited = container_stats(node, pods.sleeper(sandbox_id, linux=pb.LinuxContainerConfig(resources=limits)))
    assert limited.memory.available_bytes.value == 64 * MEBIBYTE - limited.memory.working_set_bytes.value
    assert limited.swap.swap_usage_bytes.value + limited.swap.swap_available_bytes.value == 32 * MEBIBYTE
    free = container_stats(node, pods.sleeper(sandbox_id))
    assert not free.memory.HasField("available_bytes")
    assert not free.swap.HasField("swap_available_bytes")


def test_values_are_the_kernels_own(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sleep", "1000")
    file = ("memory", "memory.current") if IS_V2 else ("memory", "memory.usage_in_bytes")
    usage = cgroup_file(node, sandbox_id, container_id, *file)
    found = container_stats(node, container_id)
    assert found.memory.usage_bytes.value == usage
    if not IS_V2:
        before = found.cpu.usage_core_nano_seconds.value
        mine = cgroup_file(node, sandbox_id, container_id, "cpuacct", "cpuacct.usage")
        assert before <= mine <= container_stats(node, container_id).cpu.usage_core_nano_seconds.value


def test_ten_megabytes_over_the_pods_interface_are_counted(node: Node, pods: Pods) -> None:
    receiver, sender = pods.run(), pods.run()
    listener = pods.start(receiver, "sh", "-c", "sleep 1000 | nc -l -p 7000 | wc -c > /got; sleep 1000")
    status = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=receiver)).status
    before = pod_stats(node, receiver).linux.network.default_interface
    assert before.name == "eth0"
    send = f"head -c {10 * MEGABYTE} /dev/zero | nc {status.network.ip} 7000"
    # The listener may not be there yet.
    pods.start(sender, "sh", "-c", f"until {send}; do sleep 0.1; done; sleep 1000")
    until(lambda: pods.exec(listener, "cat", "/got").stdout.strip() == str(10 * MEGABYTE).encode())
    after = pod_stats(node, receiver).linux.network.default_interface
    sent = pod_stats(node, sender).linux.network.default_interface
    assert 10 * MEGABYTE <= after.rx_bytes.value - before.rx_bytes.value < 12 * MEGABYTE
    assert 10 * MEGABYTE <= sent.tx_bytes.value < 12 * MEGABYTE
    assert sent.rx_bytes.value < MEGABYTE
    assert (after.rx_errors.value, after.tx_errors.value) == (0, 0)


def test_what_a_container_has_written_is_counted_in_the_background(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    write = f"head -c {20 * MEGABYTE} /dev/zero > /big; ln /big /again; mkdir /many; touch /many/1 /many/2; sleep 1000"
    container_id = pods.start(sandbox_id, "sh", "-c", write)

    def counted() -> bool:
        layer = container_stats(node, container_id).writable_layer
        return layer.used_bytes.value >= 20 * MEGABYTE and layer.inodes_used.value >= 4

    until(counted)
    layer = container_stats(node, container_id).writable_layer
    assert layer.used_bytes.value < 21 * MEGABYTE, "hard links take no room"
    assert layer.fs_id.mountpoint == str(node.root / "containers")
    assert 0 < layer.timestamp <= time.time_ns()
    idle = container_stats(node, pods.sleeper(sandbox_id))
    assert idle.writable_layer.used_bytes.value < MEGABYTE


def test_a_container_that_has_just_started_has_its_layer_counted(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run())
    until(lambda: container_stats(node, container_id).HasField("writable_layer"), within=5)


def test_attributes_are_the_containers_and_the_pods(node: Node, pods: Pods) -> None:
    config = pods.config(labels={"app": "a"}, annotations={"note": "ü"})
    sandbox_id = pods.run(config)
    container_id = pods.sleeper(sandbox_id, name="main", labels={"tier": "b"}, annotations={"x": "y"})
    found = listed_pods(node)[sandbox_id]
    assert found.attributes == pb.PodSandboxAttributes(
        id=sandbox_id, metadata=config.metadata, labels={"app": "a"}, annotations={"note": "ü"}
    )
    (own,) = found.linux.containers
    assert own.attributes == pb.ContainerAttributes(
        id=container_id, metadata=pb.ContainerMetadata(name="main"), labels={"tier": "b"}, annotations={"x": "y"}
    )
    assert own.attributes == container_stats(node, container_id).attributes == listed(node)[container_id].attributes


def test_every_value_has_its_own_time(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    until(lambda: container_stats(node, container_id).HasField("writable_layer"), within=5)
    began = time.time_ns()
    found = pod_stats(node, sandbox_id).linux
    own = found.containers[0]
    times = [own.cpu.timestamp, own.memory.timestamp, own.swap.timestamp]
    times += [found.cpu.timestamp, found.memory.timestamp, found.process.timestamp, found.network.timestamp]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert began < times[0]
    assert times[-1] < time.time_ns()
    assert own.writable_layer.timestamp < began


def test_processes_are_counted_with_those_of_cgroups_below(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.start(sandbox_id, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    pods.start(sandbox_id, "sleep", "1000")
    monitors = 2
    until(lambda: pod_stats(node, sandbox_id).linux.process.process_count.value == 4 + monitors, within=5)


def test_lists_hold_what_runs_and_nothing_else(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    running, created = pods.sleeper(sandbox_id), pods.create(sandbox_id, "true")
    exited = pods.start(sandbox_id, "true")
    pods.wait(exited)
    assert listed(node).keys() == {running}
    for container_id in (created, exited):
        code, words = refusal(node.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=container_id))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "is not running" in words
    stopped = pods.run()
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=stopped))
    assert listed_pods(node).keys() == {sandbox_id}
    code, words = refusal(node.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=stopped))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "is not ready" in words


@pytest.mark.parametrize("missing", ["0123abcd", "", "../../x"])
def test_what_is_unknown_is_an_error_alone_and_nothing_in_a_list(node: Node, pods: Pods, missing: str) -> None:
    expected = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(node.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=missing))[0] is expected
    assert refusal(node.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=missing))[0] is expected
    if missing:
        assert listed(node, id=missing) == listed(node, pod_sandbox_id=missing) == listed_pods(node, id=missing) == {}


def test_lists_filter_by_id_pod_and_labels(node: Node, pods: Pods) -> None:
    one, other = pods.run(pods.config(labels={"app": "a"})), pods.run(pods.config(labels={"app": "b"}))
    first = pods.sleeper(one, labels={"tier": "x", "side": "left"})
    second = pods.sleeper(other, labels={"tier": "x", "side": "right"})
    assert listed(node, id=first[:20]).keys() == {first}
    assert listed(node, pod_sandbox_id=other[:20]).keys() == {second}
    assert listed(node, label_selector={"tier": "x"}).keys() == {first, second}
    assert listed(node, label_selector={"tier": "x", "side": "left"}).keys() == {first}
    assert listed(node, id=first, pod_sandbox_id=other) == {}
    assert listed_pods(node, id=one[:20]).keys() == {one}
    assert listed_pods(node, label_selector={"app": "b"}).keys() == {other}


def test_containers_of_one_pod_differ(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    busy, idle = pods.start(sandbox_id, "sh", "-c", "while :; do :; done"), pods.start(sandbox_id, "sleep", "1000")
    time.sleep(0.5)
    found = {each.attributes.id: each for each in pod_stats(node, sandbox_id).linux.containers}
    assert found[busy].cpu.usage_core_nano_seconds.value > 2 * found[idle].cpu.usage_core_nano_seconds.value


def test_pods_that_share_a_cgroup_have_only_their_own_use(node: Node, pods: Pods) -> None:
    def config(cgroup: str) -> pb.PodSandboxConfig:
        made = pods.config()
        made.linux.cgroup_parent = cgroup
        return made

    parent = f"{node.cgroup}/shared"
    busy, idle = pods.run(config(parent)), pods.run(config(parent))
    pods.start(busy, "sh", "-c", "while :; do :; done")
    pods.start(idle, "sleep", "1000")
    time.sleep(0.5)
    found = listed_pods(node)
    use = {each: found[each].linux.cpu.usage_core_nano_seconds.value for each in (busy, idle)}
    assert use[busy] > 2 * use[idle]
    assert found[idle].linux.process.process_count.value == 1


def test_a_pod_with_the_hosts_network_has_no_network_of_its_own(node: Node, pods: Pods) -> None:
    config = pods.config(
        linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=HOST_NETWORK))
    )
    sandbox_id = pods.run(config)
    pods.sleeper(sandbox_id)
    assert not pod_stats(node, sandbox_id).linux.HasField("network")


def test_a_pod_without_containers_has_its_network_all_the_same(node: Node, pods: Pods) -> None:
    found = pod_stats(node, pods.run()).linux
    assert found.network.default_interface.name == "eth0"
    assert found.process.process_count.value == 0


def test_a_renamed_interface_and_a_second_one_are_shown(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    pid = pid_of(node, pods.sleeper(sandbox_id))
    inside = ["nsenter", "-t", str(pid), "-n", "ip", "link"]
    subprocess.run([*inside, "add", "aaa0", "type", "veth", "peer", "name", "aaa1"], check=True)
    found = pod_stats(node, sandbox_id).linux.network
    assert (found.default_interface.name, {each.name for each in found.interfaces}) == ("eth0", {"aaa0", "aaa1"})
    for command in (["set", "eth0", "down"], ["set", "eth0", "name", "net7"]):
        subprocess.run([*inside, *command], check=True)
    found = pod_stats(node, sandbox_id).linux.network
    names = {found.default_interface.name, *(each.name for each in found.interfaces)}
    assert names == {"aaa0", "aaa1", "net7"}


def test_containers_that_end_while_they_are_read_are_left_out(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    lasting = pods.sleeper(sandbox_id)
    stop = threading.Event()
    seen: list[set[str]] = []

    def read() -> None:
        while not stop.is_set():
            for each in listed(node).values():
                assert each.HasField("cpu") or each.HasField("memory")
            found = listed_pods(node)[sandbox_id].linux
            seen.append({each.attributes.id for each in found.containers})

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(8):
            pods.wait(pods.start(sandbox_id, "true"))
    finally:
        stop.set()
        reader.join()
    assert seen
    assert all(lasting in each for each in seen)
    assert listed(node).keys() == {lasting}


def test_a_cgroup_taken_away_leaves_all_others_intact(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    lasting, odd = pods.sleeper(sandbox_id), pods.start(sandbox_id, "sleep", "1000")
    pid = pid_of(node, odd)
    # Its processes move out and its cgroups go: nothing is left to read of it, though it runs.
    for hierarchy in {path.parent for path in Path("/sys/fs/cgroup").glob("**/" + odd)}:
        (hierarchy / "cgroup.procs").write_text(str(pid))
        (hierarchy / odd).rmdir()
    assert listed(node).keys() == {lasting}
    assert {each.attributes.id for each in pod_stats(node, sandbox_id).linux.containers} == {lasting}
    code, _ = refusal(node.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=odd))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def streamed(node: Node, rpc: str, request: betterproto.Message, response: type[M]) -> list[M]:
    """The messages of a stream that the stubs do not know yet."""
    assert node.channel is not None
    call = node.channel.unary_stream(f"/runtime.v1.RuntimeService/{rpc}")
    return [response().parse(each) for each in call(bytes(request))]


def test_streams_tell_the_same_as_lists_in_bounded_pieces(node: Node, pods: Pods) -> None:
    big = {"note": "x" * 200_000}
    ids = [pods.run(pods.config(annotations=big)) for _ in range(3)]
    containers = {pods.sleeper(each, annotations=big) for each in ids}
    request = v1.StreamContainerStatsRequest()
    messages = streamed(node, "StreamContainerStats", request, v1.StreamContainerStatsResponse)
    assert {each.attributes.id for message in messages for each in message.container_stats} == containers
    assert len(messages) == 3
    request = v1.StreamContainerStatsRequest(filter=v1.ContainerStatsFilter(pod_sandbox_id=ids[0]))
    (message,) = streamed(node, "StreamContainerStats", request, v1.StreamContainerStatsResponse)
    assert len(message.container_stats) == 1
    every = v1.StreamPodSandboxStatsRequest()
    pieces = streamed(node, "StreamPodSandboxStats", every, v1.StreamPodSandboxStatsResponse)
    assert {each.attributes.id for piece in pieces for each in piece.pod_sandbox_stats} == set(ids)
    assert all(len(bytes(piece)) < LARGEST_ANSWER // 16 for piece in pieces)
    none = v1.StreamPodSandboxStatsRequest(filter=v1.PodSandboxStatsFilter(id="absent"))
    assert streamed(node, "StreamPodSandboxStats", none, v1.StreamPodSandboxStatsResponse) == []


def test_statistics_are_there_after_a_restart(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id)
    before = container_stats(node, container_id).cpu.usage_core_nano_seconds.value
    node.restart()
    found = container_stats(node, container_id)
    assert found.cpu.usage_core_nano_seconds.value >= before
    assert pod_stats(node, sandbox_id).linux.network.default_interface.name == "eth0"
    until(lambda: container_stats(node, container_id).HasField("writable_layer"), within=5)


def test_many_that_ask_at_once_are_all_answered(node: Node, pods: Pods) -> None:
    container_id = pods.sleeper(pods.run())
    request = pb.ListContainerStatsRequest()
    calls = [node.runtime.ListContainerStats.future(request) for _ in range(100)]
    for number, call in enumerate(calls):
        if number % 3 == 0:
            call.cancel()
    answers = [call.result() for call in calls if not call.cancelled()]
    assert len(answers) >= 60
    assert all([each.attributes.id for each in answer.stats] == [container_id] for answer in answers)
