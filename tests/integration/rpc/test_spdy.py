"""Exec over SPDY/3.1, as kubectl and crictl do it through kubelet: with and without flow control."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from ocishim.protocol.spdy_frames import Ping, Reset, serialize
from rpc import raw_client as raw
from rpc import spdy_client as client
from rpc.test_exec_stream import gone, resident, url_of
from rpc.websocket_client import exit_code

if TYPE_CHECKING:
    from rpc.node import Node, Pods


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run())


@pytest.mark.parametrize("windows", [False, True])
def test_output_streams_and_exit_code_are_apart(node: Node, container: str, *, windows: bool) -> None:
    url = url_of(node, container, "sh", "-c", "echo out; echo err >&2; exit 7")
    with client.command(url, "stdout", "stderr", windows=windows) as command:
        assert exit_code(command.status()) == 7
    assert command.got("stdout") == b"out\n"
    assert command.got("stderr") == b"err\n"
    assert command.client.finished == set(command.streams.values())


@pytest.mark.parametrize("windows", [False, True])
def test_megabytes_there_and_back(node: Node, container: str, *, windows: bool) -> None:
    url = url_of(node, container, "sh", "-c", "cat > /tmp/all; cat /tmp/all; rm /tmp/all", stdin=True)
    data = os.urandom(8 << 20)
    with client.command(url, "stdin", "stdout", "stderr", windows=windows) as command:
        command.client.send(command.streams["stdin"], data, fin=True)
        assert exit_code(command.status()) == 0
    assert command.got("stdout") == data


def test_a_terminal_has_a_size(node: Node, container: str) -> None:
    url = url_of(node, container, "sh", "-c", "read line; stty size", tty=True, stdin=True)
    with client.command(url, "stdin", "stdout", "resize") as command:
        command.client.send(command.streams["resize"], json.dumps({"Width": 99, "Height": 33}).encode() + b"\n")
        time.sleep(0.1)  # sizes and input are streams of their own, and keep no order
        command.client.send(command.streams["stdin"], b"\n")
        assert exit_code(command.status()) == 0
    assert b"33 99\r\n" in command.got("stdout")


@pytest.mark.parametrize("version", ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])
def test_older_protocols_tell_the_end_in_words(node: Node, container: str, version: str) -> None:
    url = url_of(node, container, "sh", "-c", "exit 5")
    headers = raw.SPDY | {"X-Stream-Protocol-Version": version}
    with client.connected(url, headers) as spdy:
        streams = {name: spdy.open(streamtype=name) for name in ("error", "stdout", "stderr")}
        spdy.finish()
    assert spdy.got[streams["error"]] == b"command terminated with exit code 5"


def test_the_best_of_the_protocols_offered_is_chosen(node: Node, container: str) -> None:
    headers = {"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "channel.k8s.io, v4.channel.k8s.io,v9"}
    with raw.connected(url_of(node, container, "true")) as sock:
        sock.sendall(raw.request(url_of(node, container, "true"), headers))
        assert b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n" in raw.head(sock)


def test_a_stream_nobody_asked_for_is_refused_alone(node: Node, container: str) -> None:
    with client.connected(url_of(node, container, "cat", stdin=True), raw.SPDY) as spdy:
        unknown = spdy.open(streamtype="smell")
        streams = {name: spdy.open(streamtype=name) for name in ("error", "stdin", "stdout", "stderr")}
        twice = spdy.open(streamtype="stdin")
        assert spdy.reset == {unknown: Reset.PROTOCOL_ERROR, twice: Reset.PROTOCOL_ERROR}
        spdy.send(streams["stdin"], b"still here", fin=True)
        spdy.finish()
    assert spdy.got[streams["stdout"]] == b"still here"


def test_pings_are_answered(node: Node, container: str) -> None:
    with client.command(url_of(node, container, "sleep", "4331"), "stdout", "stderr") as command:
        command.client.sock.sendall(serialize(Ping(1)))
        command.client.until(lambda: any("PingAnswered" in repr(event) for event in command.client.events))


def test_a_client_that_goes_away_leaves_no_command_behind(node: Node, pods: Pods, container: str) -> None:
    with client.command(url_of(node, container, "sleep", "4332"), "stdout", "stderr"):
        while b"sleep 4332" not in pods.exec(container, "ps").stdout:
            time.sleep(0.02)
    gone(pods, container, b"sleep 4332")


def test_a_client_without_flow_control_that_floods_is_held_back(node: Node, pods: Pods, container: str) -> None:
    before = resident(node)
    with client.command(url_of(node, container, "sleep", "4333", stdin=True), "stdin", "stdout", "stderr") as command:
        command.client.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            command.client.send(command.streams["stdin"], bytes(64 << 20))
        assert resident(node) - before < 16 << 20
    gone(pods, container, b"sleep 4333")


def test_a_client_that_closes_its_window_slows_the_command(
    node: Node, pods: Pods, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resident(node)
    script = "head -c 200000000 /dev/zero; touch /tmp/all-written"
    with client.command(url_of(node, container, "sh", "-c", script), "stdout", "stderr", windows=True) as command:
        monkeypatch.setattr(command.client.machine, "acknowledge", lambda *_: None)  # it reads and gives no room
        command.client.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            command.status()
        assert 64 << 10 <= len(command.got("stdout")) <= 256 << 10
        assert resident(node) - before < 16 << 20
        assert pods.exec(container, "test", "-e", "/tmp/all-written").exit_code == 1
    gone(pods, container, b"head -c")


def test_many_at_a_time(node: Node, container: str) -> None:
    def run(number: int) -> None:
        with client.command(url_of(node, container, "echo", str(number)), "stdout", "stderr") as command:
            command.status()
        results[number] = command.got("stdout")

    results: dict[int, bytes] = {}
    threads = [threading.Thread(target=run, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n".encode() for number in range(32)}
