"""Attach: a client and a container's own process, by conmon's socket."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import spdy_client
from rpc import websocket_client as client
from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods

ECHO = "while read line; do echo got $line; echo err $line >&2; done; echo ended"


def url_of(node: Node, container: str, **streams: bool) -> str:
    streams = {"stdout": True, "stderr": not streams.get("tty"), **streams}
    url: str = node.runtime.Attach(pb.AttachRequest(container_id=container, **streams)).url
    return url


def test_output_since_the_attach_and_none_before(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", f"echo early; {ECHO}", stdin=True, log_path="a.log")
    while b"early" not in read(pods, container):
        time.sleep(0.02)
    with client.channels(url_of(node, container, stdin=True)) as channels:
        channels.send(client.STDIN, b"one\n")
        channels.until(lambda: b"got one\n" in channels.got[client.STDOUT])
        channels.until(lambda: b"err one\n" in channels.got[client.STDERR])
    assert channels.got[client.STDOUT] == b"got one\n"


def read(pods: Pods, container: str) -> bytes:
    with open(pods.status(container).log_path, "rb") as log:
        return log.read()


def test_the_containers_end_is_the_end(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", "read line; echo bye; exit 3", stdin=True)
    with client.channels(url_of(node, container, stdin=True)) as channels:
        channels.send(client.STDIN, b"\n")
        assert channels.finish()["status"] == "Success"
    assert channels.got[client.STDOUT] == b"bye\n"
    assert pods.wait(container).exit_code == 3


@pytest.mark.parametrize("goodbye", ["close", "vanish"])
def test_with_stdin_once_the_first_clients_end_is_the_containers_end_of_file(
    node: Node, pods: Pods, goodbye: str
) -> None:
    container = pods.start(pods.run(), "sh", "-c", ECHO, stdin=True, stdin_once=True)
    with client.channels(url_of(node, container, stdin=True)) as channels:
        channels.send(client.STDIN, b"one\n")
        channels.until(lambda: b"got one\n" in channels.got[client.STDOUT])
        if goodbye == "close":
            channels.close(client.STDIN)
            assert channels.finish()["status"] == "Success"
            assert channels.got[client.STDOUT] == b"got one\nended\n"
    assert pods.wait(container).exit_code == 0


def test_without_stdin_once_the_container_waits_for_the_next_client(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", ECHO, stdin=True)
    for word in (b"one", b"two"):
        with client.channels(url_of(node, container, stdin=True)) as channels:
            channels.send(client.STDIN, word + b"\n")
            channels.until(lambda: b"got " + word + b"\n" in channels.got[client.STDOUT])  # noqa: B023 - called at once
            channels.close(client.STDIN)
    assert pods.status(container).state == pb.CONTAINER_RUNNING


def test_a_terminal_has_a_size_and_a_line_discipline(node: Node, pods: Pods) -> None:
    script = "while read line; do stty size; done"
    container = pods.start(pods.run(), "sh", "-c", script, stdin=True, tty=True)
    with client.channels(url_of(node, container, stdin=True, tty=True)) as channels:
        channels.send(client.RESIZE, json.dumps({"Width": 101, "Height": 51}).encode())
        deadline = time.monotonic() + 10
        while b"51 101\r\n" not in channels.got[client.STDOUT]:
            assert time.monotonic() < deadline
            channels.send(client.STDIN, b"\n")
            channels.receive()
    assert pods.status(container).state == pb.CONTAINER_RUNNING


def test_two_clients_at_once_see_the_same(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", ECHO, stdin=True)
    url, second_url = url_of(node, container, stdin=True), url_of(node, container)
    with client.channels(url) as first, client.channels(second_url) as second:
        second.receive()
        deadline = time.monotonic() + 10
        while b"got same\n" not in second.got[client.STDOUT]:  # until the second is connected to conmon, too
            assert time.monotonic() < deadline
            first.send(client.STDIN, b"same\n")
            second.receive()
        first.until(lambda: b"got same\n" in first.got[client.STDOUT])


def test_over_spdy(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", ECHO, stdin=True, stdin_once=True)
    with spdy_client.command(url_of(node, container, stdin=True), "stdin", "stdout", "stderr") as command:
        command.client.send(command.streams["stdin"], b"one\n", fin=True)
        assert command.status()["status"] == "Success"
    assert command.got("stdout") == b"got one\nended\n"
    assert command.got("stderr") == b"err one\n"


def test_input_of_many_messages_arrives_whole(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", "wc -c", stdin=True, stdin_once=True)
    with client.channels(url_of(node, container, stdin=True)) as channels:
        for _ in range(40):
            channels.send(client.STDIN, bytes(100_000))
        channels.close(client.STDIN)
        channels.finish()
    assert channels.got[client.STDOUT].strip() == b"4000000"


def test_a_container_without_stdin_takes_a_client_all_the_same(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", "while :; do echo x; sleep 0.05; done")
    with client.channels(url_of(node, container, stdin=True)) as channels:
        channels.send(client.STDIN, b"into the void\n")
        channels.until(lambda: b"x\nx\n" in channels.got[client.STDOUT])


def test_a_container_that_does_not_run(node: Node, pods: Pods) -> None:
    container = pods.create(pods.run(), "true")
    code, words = refusal(node.runtime.Attach, pb.AttachRequest(container_id=container, stdout=True))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "not running" in words


def test_nothing_to_attach(node: Node, pods: Pods) -> None:
    container = pods.sleeper(pods.run())
    code, _ = refusal(node.runtime.Attach, pb.AttachRequest(container_id=container))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_container(node: Node) -> None:
    code, _ = refusal(node.runtime.Attach, pb.AttachRequest(container_id="abcdef", stdout=True))
    assert code == grpc.StatusCode.NOT_FOUND
