"""The metrics behind kubelet's /metrics/cadvisor, and the server's own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

from ocishim.api.runtime import v1

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

MEBIBYTE = 1 << 20
DISK = {
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
}
"""There only for a container that has used a disk which counts."""
LIMITED = pb.LinuxContainerConfig(
    resources=pb.LinuxContainerResources(
        cpu_period=100000,
        cpu_quota=20000,
        cpu_shares=1024,
        memory_limit_in_bytes=64 * MEBIBYTE,
        memory_swap_limit_in_bytes=64 * MEBIBYTE,
    )
)
Values = dict[str, list[tuple[dict[str, str], int]]]


def keys(node: Node) -> dict[str, list[str]]:
    """Label keys of every metric."""
    answer = node.runtime.ListMetricDescriptors(pb.ListMetricDescriptorsRequest())
    return {each.name: list(each.label_keys) for each in answer.descriptors}


def metrics(node: Node, sandbox_id: str) -> tuple[Values, dict[str, Values]]:
    """A pod's own metrics and those of each container."""
    known = keys(node)

    def values(found: list[pb.Metric]) -> Values:
        result: Values = {}
        for each in found:
            labels = dict(zip(known[each.name], each.label_values, strict=True))
            result.setdefault(each.name, []).append((labels, each.value.value))
        return result

    answer = node.runtime.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest())
    (pod,) = (each for each in answer.pod_metrics if each.pod_sandbox_id == sandbox_id)
    return values(pod.metrics), {each.container_id: values(each.metrics) for each in pod.container_metrics}


def test_every_descriptor_has_values_at_the_first_question(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.sleeper(sandbox_id, linux=LIMITED)
    pods.exec(container_id, "sh", "-c", "mkdir /d && for i in 1 2 3; do echo hi > /d/$i; done; sync")
    pod, containers = metrics(node, sandbox_id)
    missing = keys(node).keys() - pod.keys() - containers[container_id].keys()
    assert missing <= DISK


def test_descriptors_do_not_change(node: Node) -> None:
    before = keys(node)
    assert keys(node) == before
    assert len(before) >= 56


def test_labels_are_cadvisors(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(pods.config("web"))
    container_id = pods.sleeper(sandbox_id, name="main", image="busybox")
    pod, containers = metrics(node, sandbox_id)
    ((labels, _),) = containers[container_id]["container_cpu_usage_seconds_total"]
    assert labels == {
        "id": f"{node.cgroup}/{sandbox_id}/{container_id}",
        "name": container_id,
        "image": "busybox",
        "namespace": "test",
        "pod": "web",
        "container": "main",
        "cpu": "total",
    }
    ((labels, _),) = pod["container_network_receive_bytes_total"]
    assert (labels["pod"], labels["container"], labels["interface"]) == ("web", "", "eth0")


def test_values_agree_with_the_statistics_and_the_limits(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sleep", "1000", linux=LIMITED)
    request = pb.ContainerStatsRequest(container_id=container_id)
    stats = node.runtime.ContainerStats(request).stats
    found = metrics(node, sandbox_id)[1][container_id]
    single = {name: values[0][1] for name, values in found.items() if len(values) == 1}
    # The kernel settles what the start of the container has taken.
    working_set = stats.memory.working_set_bytes.value
    assert single["container_memory_working_set_bytes"] == pytest.approx(working_set, abs=MEBIBYTE)
    assert single["container_memory_rss"] == stats.memory.rss_bytes.value
    assert single["container_spec_memory_limit_bytes"] == 64 * MEBIBYTE
    assert (single["container_spec_cpu_quota"], single["container_spec_cpu_period"]) == (20000, 100000)
    assert (single["container_processes"], single["container_threads"]) == (1, 1)
    assert single["container_sockets"] == 0
    assert abs(single["container_last_seen"] - time.time()) < 60
    assert abs(single["container_start_time_seconds"] - time.time()) < 60


def test_sockets_and_descriptors_are_those_of_all_processes(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sh", "-c", "sleep 1000 | nc -l -p 7000")

    def held(name: str) -> int:
        return metrics(node, sandbox_id)[1][container_id][name][0][1]

    deadline = time.monotonic() + 10
    while held("container_sockets") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert held("container_processes") == 3
    assert held("container_file_descriptors") >= 9


def test_pods_that_do_not_run_have_no_metrics(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    exited = pods.start(sandbox_id, "true")
    pods.wait(exited)
    pods.create(sandbox_id, "true")
    assert metrics(node, sandbox_id)[1] == {}
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert not node.runtime.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest()).pod_metrics


def test_the_stream_tells_the_same(node: Node, pods: Pods) -> None:
    ids = {pods.run() for _ in range(3)}
    assert node.channel is not None
    call = node.channel.unary_stream("/runtime.v1.RuntimeService/StreamPodSandboxMetrics")
    messages = [v1.StreamPodSandboxMetricsResponse().parse(each) for each in call(b"")]
    found = [each for message in messages for each in message.pod_sandbox_metrics]
    assert {each.pod_sandbox_id for each in found} == ids
    assert all(each.metrics for each in found)


@pytest.fixture
def measured(node: Node) -> Iterator[str]:
    """The same node with an endpoint of its own metrics; gives the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = node.config.read_text()
    node.configure(f'[metrics]\naddress = "127.0.0.1:{port}"\n')
    node.restart()
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        node.config.write_text(before)
        node.restart()


def scraped(url: str) -> dict[tuple[str, frozenset[str]], float]:
    """Samples by name and label values."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_servers_own_work_is_counted(node: Node, measured: str, pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.sleeper(sandbox_id)
    pods.create(sandbox_id, "true")
    found = scraped(measured)
    assert found["ocishim_rpc_seconds_count", frozenset({"RunPodSandbox", "OK"})] == 1
    assert found["ocishim_rpc_seconds_count", frozenset({"CreateContainer", "OK"})] == 2
    assert found["ocishim_cni_seconds_count", frozenset({"bridge", "ADD", "ok"})] == 1
    assert found["ocishim_containers", frozenset({"running"})] == 1
    assert found["ocishim_containers", frozenset({"created"})] == 1
    assert found["ocishim_sandboxes", frozenset({"ready"})] == 1
    assert found["ocishim_event_loop_lag_seconds_count", frozenset()] >= 0
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    found = scraped(measured)
    assert found["ocishim_cni_seconds_count", frozenset({"bridge", "DEL", "ok"})] == 1
    assert found["ocishim_sandboxes", frozenset({"notready"})] == 1


def test_failures_are_counted_by_their_code(node: Node, measured: str) -> None:
    for _ in range(3):
        with pytest.raises(Exception, match="required"):
            node.runtime.ContainerStatus(pb.ContainerStatusRequest())
    node.images.ImageStatus(pb.ImageStatusRequest(image=pb.ImageSpec(image="busybox")))
    with pytest.raises(Exception, match=r".*"):
        node.images.PullImage(pb.PullImageRequest(image=pb.ImageSpec(image="127.0.0.1:1/none:1")), timeout=60)
    found = scraped(measured)
    assert found["ocishim_rpc_seconds_count", frozenset({"ContainerStatus", "INVALID_ARGUMENT"})] == 3
    assert found["ocishim_rpc_seconds_count", frozenset({"ImageStatus", "OK"})] == 1
    assert found["ocishim_image_pull_seconds_count", frozenset({"failed"})] == 1


def test_what_the_start_mends_is_counted(node: Node, measured: str, pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.start(sandbox_id, "sh", "-c", "sleep 1")
    node.stop(9)
    time.sleep(2)
    (node.state / "containers" / ("f" * 64)).mkdir()
    node.start()
    found = scraped(measured)
    assert found["ocishim_recovery_findings_total", frozenset({"container-ended"})] == 1
    assert found["ocishim_recovery_findings_total", frozenset({"files-unknown"})] == 1


def test_a_server_without_the_key_listens_for_streams_only(node: Node) -> None:
    assert node.process is not None
    listing = subprocess.run(["ss", "-ltnp"], check=True, capture_output=True, text=True).stdout
    places = [line.split()[3] for line in listing.splitlines() if f"pid={node.process.pid}," in line]
    assert [place.rpartition(":")[0] for place in places] == ["127.0.0.1"]


def test_an_address_that_is_taken_or_none_ends_the_start_with_words(node: Node) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for wrong, words in ((address, "cannot listen on"), ("nowhere", "metrics.address")):
            config = node.scratch / "wrong.toml"
            other = f"{node.state}-other"
            text = f'root = "{other}/root"\nstate = "{other}/state"\nlisten = "unix://{other}/s.sock"\n'
            config.write_text(f'{text}[metrics]\naddress = "{wrong}"\n')
            command = [sys.executable, "-m", "ocishim", "serve", "--config", str(config)]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
            assert done.returncode != 0
            assert words in done.stderr
            assert "Traceback" not in done.stderr
            subprocess.run(["rm", "-rf", other], check=True)
