"""ExecSync, as kubelet's probes rely on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run(), envs=[pb.KeyValue(key="MINE", value="yes")])


def test_output_streams_and_exit_code_are_apart(pods: Pods, container: str) -> None:
    answer = pods.exec(container, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 7)


def test_a_killed_command_has_128_and_its_signal(pods: Pods, container: str) -> None:
    assert pods.exec(container, "sh", "-c", "kill -9 $$").exit_code == 137


def test_the_command_has_the_containers_environment(pods: Pods, container: str) -> None:
    assert pods.exec(container, "sh", "-c", "echo $MINE").stdout == b"yes\n"


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/etc/notexecutable", 126)])
def test_a_command_that_cannot_run_is_an_exit_code(pods: Pods, container: str, command: str, code: int) -> None:
    answer = pods.exec(container, command)
    assert answer.exit_code == code
    assert answer.stderr


def test_a_timeout_kills_the_command_and_not_the_container(node: Node, pods: Pods, container: str) -> None:
    began = time.monotonic()
    request = pb.ExecSyncRequest(container_id=container, cmd=["sh", "-c", "sleep 4321 & sleep 4321"], timeout=1)
    code, words = refusal(node.runtime.ExecSync, request)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "killed" in words
    assert 0.9 < time.monotonic() - began < 60
    assert pods.status(container).state == pb.CONTAINER_RUNNING
    assert b"sleep 4321" not in pods.exec(container, "ps").stdout


def test_a_client_that_goes_away_leaves_no_command_behind(node: Node, pods: Pods, container: str) -> None:
    request = pb.ExecSyncRequest(container_id=container, cmd=["sleep", "4322"])
    refusal(node.runtime.ExecSync, request, timeout=0.5)
    deadline = time.monotonic() + 15
    while b"sleep 4322" in pods.exec(container, "ps").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_background_child_that_holds_the_pipes_is_not_waited_for(pods: Pods, container: str) -> None:
    began = time.monotonic()
    answer = pods.exec(container, "sh", "-c", "sleep 20 & echo done")
    assert (answer.stdout, answer.exit_code) == (b"done\n", 0)
    assert time.monotonic() - began < 15


def test_output_is_cut_below_what_kubelet_takes(pods: Pods, container: str) -> None:
    script = "head -c 12000000 /dev/zero; head -c 12000000 /dev/zero >&2"
    answer = pods.exec(container, "sh", "-c", script)
    assert answer.exit_code == 0
    assert 14 << 20 < len(answer.stdout) + len(answer.stderr) < 16 << 20


def test_a_container_that_does_not_run_takes_no_command(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(), "true")
    code, _ = refusal(node.runtime.ExecSync, pb.ExecSyncRequest(container_id=container_id, cmd=["true"]))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_many_at_a_time(pods: Pods, container: str) -> None:
    futures = [
        pods.node.runtime.ExecSync.future(pb.ExecSyncRequest(container_id=container, cmd=["echo", str(number)]))
        for number in range(32)
    ]
    assert [future.result().stdout for future in futures] == [f"{number}\n".encode() for number in range(32)]
