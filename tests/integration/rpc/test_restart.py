"""A server that ends, by SIGTERM or SIGKILL, and the next one on the same directories."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import leaks
from rpc.node import Node, Pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@pytest.fixture
def own(node: Node, layout: Path) -> Iterator[Node]:
    """A server of this test's own, with a leak check of its own."""
    made = Node(node.runtime_name)
    try:
        made.prepare()
        made.start()
        made.load(layout)
        before = leaks.held(made)
        yield made
        leaked = leaks.compare(made, before)
        assert not leaked, "left on the host:\n" + "\n".join(leaked) + f"\nserver:\n{made.log()}"
    finally:
        made.clean()


@pytest.fixture
def pods(own: Node) -> Iterator[Pods]:
    made = Pods(own)
    try:
        yield made
    finally:
        made.remove_all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_go_on_and_are_taken_over(own: Node, pods: Pods, number: int) -> None:
    sandbox_id = pods.run()
    script = "trap 'exit 4' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    container_id = pods.start(sandbox_id, "sh", "-c", script, log_path="on.log")
    before = pods.status(container_id)
    own.stop(number)
    log = Path(before.log_path)
    written = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size > written
    own.start()
    assert pods.status(container_id) == before
    assert pods.exec(container_id, "echo", "alive").stdout == b"alive\n"
    own.runtime.StopContainer(pb.StopContainerRequest(container_id=container_id, timeout=10))
    assert pods.status(container_id).exit_code == 4
    numbers = [int(line.split(" ", 3)[3]) for line in log.read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_exit_while_the_server_was_away_is_known_with_its_code_and_time(own: Node, pods: Pods, number: int) -> None:
    container_id = pods.start(pods.run(), "sh", "-c", "sleep 0.5; exit 9")
    own.stop(number)
    time.sleep(1.5)
    own.start()
    back = time.time_ns()
    ended = pods.wait(container_id)
    assert (ended.exit_code, ended.reason) == (9, "Error")
    assert ended.started_at < ended.finished_at < back - 500 * 10**6


def test_a_container_that_conmon_took_its_end_with_it_is_unknown_not_zero(own: Node, pods: Pods) -> None:
    container_id = pods.start(pods.run(), "sleep", "1000")
    bundle = own.state / "containers" / container_id
    own.stop()
    for name in ("conmon.pid", "pidfile"):
        subprocess.run(["kill", "-9", (bundle / name).read_text().strip()], check=True)
    time.sleep(0.2)
    own.start()
    ended = pods.wait(container_id)
    assert (ended.exit_code, ended.reason) == (255, "Unknown")


def test_created_containers_and_pods_survive(own: Node, pods: Pods) -> None:
    sandbox_id = pods.run()
    container_id = pods.create(sandbox_id, "sh", "-c", "exit 2")
    own.restart()
    assert pods.status(container_id).state == pb.CONTAINER_CREATED
    own.runtime.StartContainer(pb.StartContainerRequest(container_id=container_id))
    assert pods.wait(container_id).exit_code == 2


def test_a_kill_in_the_middle_of_a_pods_start_is_mended_by_the_retry(own: Node, pods: Pods) -> None:
    config = pods.config()
    for delay in (0.01, 0.03, 0.05, 0.08):
        threading.Thread(target=_ignoring, args=(pods.run, config), daemon=True).start()
        time.sleep(delay)
        own.restart(signal.SIGKILL)
    sandbox_id = pods.run(config)
    listed = own.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    assert [item.id for item in listed] == [sandbox_id]
    assert pods.output(sandbox_id, "echo", "fine") == "fine"


STEPS = ("create", "start", "stop", "remove", "stop-pod", "remove-pod")


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_in_the_middle_of_a_containers_life_is_mended_by_the_retry(own: Node, pods: Pods, step: str) -> None:
    for delay in (0.004, 0.015, 0.03):
        life = Life(own, pods)
        for before in STEPS[: STEPS.index(step)]:
            life.take(before)
        threading.Thread(target=_ignoring, args=(life.take, step), daemon=True).start()
        time.sleep(delay)
        own.restart(signal.SIGKILL)
        for after in STEPS[STEPS.index(step) :]:
            life.take(after)
        assert not own.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
        assert not own.runtime.ListContainers(pb.ListContainersRequest()).containers


class Life:
    """A pod's life in steps that may be repeated, as kubelet does after a lost answer."""

    def __init__(self, node: Node, pods: Pods) -> None:
        self._node = node
        self._pods = pods
        self._pod = pods.run()
        self._container = ""

    def take(self, step: str) -> None:
        """Take a step, or find that it was taken."""
        runtime, named = self._node.runtime, {"container_id": self._container}
        match step:
            case "create":
                self._container = self._pods.create(self._pod, "sleep", "1000", name="c")
            case "start":
                # Killed in the middle of it, the container runs, or has failed for good with a reason of its own.
                if self._pods.status(self._container).state == pb.CONTAINER_CREATED:
                    runtime.StartContainer(pb.StartContainerRequest(**named))
                status = self._pods.status(self._container)
                assert status.state == pb.CONTAINER_RUNNING or status.reason == "StartError"
            case "stop":
                runtime.StopContainer(pb.StopContainerRequest(**named, timeout=0))
                assert self._pods.status(self._container).state == pb.CONTAINER_EXITED
            case "remove":
                runtime.RemoveContainer(pb.RemoveContainerRequest(**named))
            case "stop-pod":
                runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=self._pod))
            case "remove-pod":
                runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=self._pod))


def _ignoring(operation: Callable[[T], object], argument: T) -> None:
    """The answer is lost with the server."""
    try:
        operation(argument)
    except (grpc.RpcError, ValueError, AssertionError):
        pass


def test_a_torn_record_costs_only_its_own_object(own: Node, pods: Pods) -> None:
    good = pods.run()
    own.stop()
    torn = own.root / "sandboxes" / ("e" * 64)
    torn.mkdir()
    (torn / "metadata.json").write_text('{"version": 1, "id": "ee')
    own.start()
    listed = own.runtime.ListPodSandbox(pb.ListPodSandboxRequest()).items
    assert [(item.id, item.state) for item in listed] == [(good, pb.SANDBOX_READY)]
    info = own.runtime.Status(pb.StatusRequest(verbose=True)).info
    assert "e" * 64 in info["setAside"]
    assert "set aside" in own.log()


def test_what_belongs_to_no_record_is_swept(own: Node) -> None:
    own.stop()
    stray = own.state / "sandboxes" / ("d" * 64) / "ns"
    stray.mkdir(parents=True)
    (stray / "net").touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(stray / "net")], check=True)
    own.start()
    assert not stray.parent.exists()


def test_a_second_server_on_the_same_directories_is_refused(own: Node) -> None:
    command = [sys.executable, "-m", "ocishim", "serve", "--config", str(own.config)]
    command += ["--listen", f"unix://{own.state}/other.sock"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert "another ocishim" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert own.runtime.Version(pb.VersionRequest()).runtime_name


def test_a_live_socket_is_refused_and_a_stale_one_replaced(own: Node, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocishim", "serve", "--config", str(own.config)]
    command += ["--root", str(tmp_path / "root"), "--state", str(tmp_path / "state")]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert refused.returncode == 1
    assert "answers there already" in refused.stderr
    own.stop(signal.SIGKILL)
    assert own.socket.exists()
    own.start()
    assert oct(own.socket.stat().st_mode & 0o777) == "0o660"
