"""GetContainerEvents and the streamed lists, by an independent client."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
from cri_api.v1 import api_pb2 as pb

from ocishim.api.runtime import v1
from rpc.node import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

CREATED, STARTED = pb.CONTAINER_CREATED_EVENT, pb.CONTAINER_STARTED_EVENT
STOPPED, DELETED = pb.CONTAINER_STOPPED_EVENT, pb.CONTAINER_DELETED_EVENT


def subscribe(node: Node) -> Any:
    """A stream of events that is in place when this returns."""
    call = node.runtime.GetContainerEvents(pb.GetEventsRequest(), timeout=60)
    call.initial_metadata()
    return call


def until_deleted(call: Any, sandbox_id: str) -> Iterator[pb.ContainerEventResponse]:
    for event in call:
        yield event
        if event.container_id == sandbox_id and event.container_event_type == DELETED:
            call.cancel()
            return


def live(node: Node, pods: Pods) -> tuple[str, str]:
    """A pod and a container that lives and is removed."""
    sandbox_id = pods.run()
    container_id = pods.start(sandbox_id, "sh", "-c", "exit 3")
    pods.wait(container_id)
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    return sandbox_id, container_id


def test_every_subscriber_is_told_of_a_pods_life_in_order(node: Node, pods: Pods) -> None:
    calls = [subscribe(node) for _ in range(3)]
    sandbox_id, container_id = live(node, pods)
    for call in calls:
        told = list(until_deleted(call, sandbox_id))
        assert [(each.container_id, each.container_event_type) for each in told] == [
            (sandbox_id, CREATED),
            (sandbox_id, STARTED),
            (container_id, CREATED),
            (container_id, STARTED),
            (container_id, STOPPED),
            (container_id, DELETED),
            (sandbox_id, STOPPED),
            (sandbox_id, DELETED),
        ]
        assert told[4].containers_statuses[0].exit_code == 3
        assert told[4].pod_sandbox_status.network.ip.startswith(node.subnet)


def test_a_pods_status_has_its_containers_and_a_time(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    names = {pods.create(sandbox_id, "true") for _ in range(2)}
    pods.create(pods.run(), "true")
    answer = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id))
    assert {each.id for each in answer.containers_statuses} == names
    assert abs(time.time_ns() - answer.timestamp) < 60 * 10**9


def test_a_subscriber_that_does_not_read_is_let_go_and_slows_nobody(node: Node, pods: Pods) -> None:
    slow, good = subscribe(node), subscribe(node)
    told: list[int] = []

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):  # its own cancellation, at the end
            told.extend(each.container_event_type for each in good)

    reader = threading.Thread(target=read)
    reader.start()
    config = pods.config(annotations={"large": "x" * 3_000_000})
    sandbox_id = pods.run(config)
    for _ in range(4):
        pods.create(sandbox_id, "true")
    pods.remove_all()
    deadline = time.monotonic() + 10
    while told.count(DELETED) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    good.cancel()
    reader.join()
    code, words = refusal(list, slow)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, words
    assert "too slow" in words


def test_a_subscriber_that_goes_away_is_forgotten(node: Node, pods: Pods) -> None:
    for _ in range(20):
        subscribe(node).cancel()
    live(node, pods)


def stream(node: Node, path: str, request: Any, response: type[Any]) -> list[Any]:
    """The messages of a streaming RPC that the client's stubs are too old for."""
    assert node.channel is not None
    return [response().parse(each) for each in node.channel.unary_stream(path)(bytes(request))]


def test_streamed_lists_have_each_entry_once_in_several_pieces(node: Node, pods: Pods) -> None:
    large = {"large": "x" * 100_000}
    sandbox_ids = {pods.run(pods.config(annotations=large)) for _ in range(4)}
    container_ids = {pods.create(each, "true", annotations=large) for each in sandbox_ids}
    sandboxes = stream(
        node,
        "/runtime.v1.RuntimeService/StreamPodSandboxes",
        v1.StreamPodSandboxesRequest(),
        v1.StreamPodSandboxesResponse,
    )
    containers = stream(
        node, "/runtime.v1.RuntimeService/StreamContainers", v1.StreamContainersRequest(), v1.StreamContainersResponse
    )
    assert len(sandboxes) == len(containers) == 2
    assert sorted(each.id for message in sandboxes for each in message.pod_sandboxes) == sorted(sandbox_ids)
    assert sorted(each.id for message in containers for each in message.containers) == sorted(container_ids)


def test_streamed_lists_are_filtered_and_may_be_empty(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.create(sandbox_id, "true", labels={"app": "x"})
    path = "/runtime.v1.RuntimeService/StreamContainers"
    for labels, expected in (({"app": "x"}, [container_id]), ({"app": "y"}, [])):
        request = v1.StreamContainersRequest(filter=v1.ContainerFilter(label_selector=labels))
        found = stream(node, path, request, v1.StreamContainersResponse)
        assert [each.id for message in found for each in message.containers] == expected


def test_images_are_streamed(node: Node) -> None:
    found = stream(node, "/runtime.v1.ImageService/StreamImages", v1.StreamImagesRequest(), v1.StreamImagesResponse)
    listed = node.images.ListImages(pb.ListImagesRequest()).images
    assert sorted(each.id for message in found for each in message.images) == sorted(each.id for each in listed)
    assert listed
