"""Requests that meet: identical ones join, others wait only for the same object, and each ends in one state."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import refusal
from rpc.own import script, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpc.node import Node, Pods

PRECONDITION, NOT_FOUND = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
EXISTS, LATE = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.DEADLINE_EXCEEDED
SLOW = "slow"
DELAYS = [0.0, 0.001, 0.002, 0.004, 0.006, 0.009, 0.014, 0.02]
"""Seconds: so that the second request meets the first at another step each time."""


@pytest.fixture(scope="module", params=["crun", "runc"])
def node(request: pytest.FixtureRequest, layout: Path) -> Iterator[Node]:
    """A server that also has its runtime under a handler that takes half a second to create."""

    def settings(made: Node) -> str:
        # Which of the two directories it is in is the runtime's own affair.
        wrapper = script(
            made.scratch / "slow.sh",
            f'case " $* " in *" create "*) sleep 0.5 ;; esac\nexec {request.param} "$@"\n',
        )
        return f'[runtimes.{SLOW}]\npath = "{wrapper}"\n'

    with serving(request.param, layout, settings) as made:
        yield made


class Call:
    """A request under way in a thread; `code` is OK or what it failed with."""

    def __init__(self, call: Callable[..., Any], request: Any) -> None:
        self.answer: Any = None
        self.code = grpc.StatusCode.OK
        self.words = ""

        def body() -> None:
            try:
                self.answer = call(request, timeout=60)
            except grpc.RpcError as error:
                self.code, self.words = error.code(), error.details()

        self.thread = threading.Thread(target=body)
        self.thread.start()

    def done(self) -> Call:
        self.thread.join(timeout=70)
        assert not self.thread.is_alive()
        return self


def creation(sandbox_id: str, name: str, *command: str) -> pb.CreateContainerRequest:
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image="busybox"), command=command
    )
    return pb.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)


def starting(container_id: str) -> pb.StartContainerRequest:
    return pb.StartContainerRequest(container_id=container_id)


def state(node: Node, container_id: str) -> int | None:
    """The container's state, None where there is none."""
    found = node.runtime.ListContainers(pb.ListContainersRequest()).containers
    return {each.id: each.state for each in found}.get(container_id)


def listed(node: Node) -> set[str]:
    return {each.id for each in node.runtime.ListContainers(pb.ListContainersRequest()).containers}


def test_identical_creations_make_one_container(node: Node, pods: Pods) -> None:
    request = creation(pods.run(), "same", "true")
    calls = [Call(node.runtime.CreateContainer, request) for _ in range(6)]
    assert {call.done().code for call in calls} == {grpc.StatusCode.OK}
    assert {call.answer.container_id for call in calls} == listed(node)
    assert len(listed(node)) == 1


def test_of_different_creations_of_one_name_one_wins(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    calls = [Call(node.runtime.CreateContainer, creation(sandbox_id, "same", f"/bin/{n}")) for n in range(5)]
    codes = sorted(call.done().code.name for call in calls)
    assert codes == ["ALREADY_EXISTS"] * 4 + ["OK"]
    assert len(listed(node)) == 1


def test_a_creation_whose_client_goes_away_is_found_by_its_retry(node: Node, pods: Pods) -> None:
    request = creation(pods.run(), "kept", "true")
    assert refusal(node.runtime.CreateContainer, request, timeout=0.003)[0] == LATE
    container_id = node.runtime.CreateContainer(request).container_id
    assert listed(node) == {container_id}


def test_a_start_whose_client_goes_away_is_joined_by_its_retry(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(handler=SLOW), "sleep", "1000")
    assert refusal(node.runtime.StartContainer, starting(container_id), timeout=0.1)[0] == LATE
    node.runtime.StartContainer(starting(container_id))
    assert state(node, container_id) == pb.CONTAINER_RUNNING


def test_a_slow_start_holds_up_nobody_else(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(handler=SLOW)
    container_id = pods.create(sandbox_id, "sleep", "1000")
    slow = Call(node.runtime.StartContainer, starting(container_id))
    time.sleep(0.1)
    other = pods.create(sandbox_id, "true")
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=other))
    assert state(node, container_id) == pb.CONTAINER_CREATED
    pods.run()
    assert slow.thread.is_alive(), "the others were meant to be done before it"
    assert slow.done().code == grpc.StatusCode.OK


def test_simultaneous_starts_are_one(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(handler=SLOW), "sh", "-c", "echo once; sleep 1000", log_path="s.log")
    calls = [Call(node.runtime.StartContainer, starting(container_id)) for _ in range(3)]
    assert {call.done().code for call in calls} == {grpc.StatusCode.OK}
    pods.exec(container_id, "true")
    assert Path(pods.status(container_id).log_path).read_text().count("once") == 1


def test_a_stop_during_a_start_stops_what_was_started(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(handler=SLOW), "sleep", "1000")
    start = Call(node.runtime.StartContainer, starting(container_id))
    time.sleep(0.1)
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    assert start.done().code == grpc.StatusCode.OK
    ended = pods.status(container_id)
    assert (ended.state, ended.exit_code) == (pb.CONTAINER_EXITED, 137)
    assert ended.created_at <= ended.started_at <= ended.finished_at


def test_a_removal_during_a_start_removes_what_was_started(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(handler=SLOW), "sleep", "1000")
    start = Call(node.runtime.StartContainer, starting(container_id))
    time.sleep(0.1)
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container_id))
    assert start.done().code == grpc.StatusCode.OK
    assert state(node, container_id) is None


@pytest.mark.parametrize("delay", DELAYS)
def test_a_start_and_a_removal_that_meet_leave_nothing(node: Node, pods: Pods, delay: float) -> None:
    container_id = pods.create(pods.run(), "sleep", "1000")
    removal = Call(node.runtime.RemoveContainer, pb.RemoveContainerRequest(container_id=container_id))
    time.sleep(delay)
    start = Call(node.runtime.StartContainer, starting(container_id))
    assert removal.done().code == grpc.StatusCode.OK
    assert start.done().code in (grpc.StatusCode.OK, NOT_FOUND)
    assert state(node, container_id) is None


def test_simultaneous_removals_all_succeed(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sleep", "1000")
    request = pb.RemoveContainerRequest(container_id=container_id)
    calls = [Call(node.runtime.RemoveContainer, request) for _ in range(5)]
    assert {call.done().code for call in calls} == {grpc.StatusCode.OK}
    assert state(node, container_id) is None


def test_simultaneous_stops_send_one_signal(node: Node, pods: Pods) -> None:
    count = "n=0; trap 'n=$((n+1)); echo signal $n' TERM; echo ready; while :; do sleep 0.02; done"
    container_id = pods.start(pods.run(), "sh", "-c", count, log_path="n.log")
    log = Path(pods.status(container_id).log_path)
    while "ready" not in log.read_text():
        time.sleep(0.01)
    request = pb.StopContainerRequest(container_id=container_id, timeout=1)
    calls = [Call(node.runtime.StopContainer, request) for _ in range(5)]
    assert {call.done().code for call in calls} == {grpc.StatusCode.OK}
    assert [line.split(" ", 3)[3] for line in log.read_text().splitlines()] == ["ready", "signal 1"]


def test_a_pods_stop_during_a_start_leaves_the_container_exited(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run(handler=SLOW)
    container_id = pods.create(sandbox_id, "sleep", "1000")
    start = Call(node.runtime.StartContainer, starting(container_id))
    time.sleep(0.1)
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert start.done().code == grpc.StatusCode.OK
    assert state(node, container_id) == pb.CONTAINER_EXITED
    assert refusal(node.runtime.StartContainer, starting(container_id))[0] == PRECONDITION


@pytest.mark.parametrize("delay", DELAYS)
def test_a_pods_stop_during_a_creation_lets_it_finish_or_refuses_it(node: Node, pods: Pods, delay: float) -> None:
    sandbox_id = pods.run()
    create = Call(node.runtime.CreateContainer, creation(sandbox_id, "late", "true"))
    time.sleep(delay)
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
    create.done()
    if create.code == grpc.StatusCode.OK:
        assert state(node, create.answer.container_id) == pb.CONTAINER_CREATED
        refused = refusal(node.runtime.StartContainer, starting(create.answer.container_id))
        assert refused[0] == PRECONDITION
    else:
        assert create.code == PRECONDITION
        assert listed(node) == set()
    status = node.runtime.PodSandboxStatus(pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)).status
    assert status.state == pb.SANDBOX_NOTREADY


@pytest.mark.parametrize("delay", DELAYS)
def test_a_pods_removal_during_a_creation_leaves_nothing(node: Node, pods: Pods, delay: float) -> None:
    sandbox_id = pods.run()
    create = Call(node.runtime.CreateContainer, creation(sandbox_id, "late", "true"))
    time.sleep(delay)
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert create.done().code in (grpc.StatusCode.OK, PRECONDITION, NOT_FOUND)
    assert listed(node) == set()
    assert not node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items


@pytest.mark.parametrize("delay", DELAYS)
def test_a_removal_of_a_pod_without_its_pause_process_leaves_nothing_either(
    node: Node, pods: Pods, delay: float
) -> None:
    options = pb.NamespaceOption(pid=pb.POD)
    context = pb.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox_id = pods.run(pods.config(linux=pb.LinuxPodSandboxConfig(security_context=context)))
    pods.sleeper(sandbox_id, name="early")
    pidfile = node.state / "sandboxes" / sandbox_id / "pause/pidfile"
    create = Call(node.runtime.CreateContainer, creation(sandbox_id, "late", "true"))
    time.sleep(delay)
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    node.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    assert create.done().code in (grpc.StatusCode.OK, PRECONDITION, NOT_FOUND)
    assert listed(node) == set()
    assert not node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items


def test_simultaneous_stops_and_removals_of_a_pod_all_succeed(node: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    pods.start(sandbox_id, "sleep", "1000")
    stop, remove = (
        pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id),
        pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id),
    )
    calls = [Call(node.runtime.StopPodSandbox, stop) for _ in range(3)]
    calls += [Call(node.runtime.RemovePodSandbox, remove) for _ in range(3)]
    assert {call.done().code for call in calls} == {grpc.StatusCode.OK}
    assert not node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items


def test_a_pod_is_made_again_only_when_its_namesake_is_gone(node: Node, pods: Pods) -> None:
    config = pods.config()
    first = pods.run(config)
    removal = Call(node.runtime.RemovePodSandbox, pb.RemovePodSandboxRequest(pod_sandbox_id=first))
    again = Call(node.runtime.RunPodSandbox, pb.RunPodSandboxRequest(config=config)).done()
    assert removal.done().code == grpc.StatusCode.OK
    # The first, found before its removal began; refused, while it was under way; or a new one after it.
    assert again.code in (grpc.StatusCode.OK, EXISTS)
    second = pods.run(config)
    assert second != first
    assert [item.id for item in node.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items] == [second]


def test_an_exec_during_a_stop_ends_with_its_container(node: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sleep", "1000")
    exec_ = Call(node.runtime.ExecSync, pb.ExecSyncRequest(container_id=container_id, cmd=["sleep", "1000"]))
    time.sleep(0.2)
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=0))
    assert exec_.done().code == grpc.StatusCode.OK
    assert exec_.answer.exit_code == 137
    late = refusal(node.runtime.ExecSync, pb.ExecSyncRequest(container_id=container_id, cmd=["true"]))
    assert late[0] == PRECONDITION
