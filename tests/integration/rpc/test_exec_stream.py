"""Exec over WebSocket: streams, terminals, exit codes, and clients that go away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from rpc import raw_client as raw
from rpc import websocket_client as client
from rpc.node import refusal

if TYPE_CHECKING:
    from rpc.node import Node, Pods


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run(), envs=[pb.KeyValue(key="MINE", value="yes")])


def url_of(node: Node, container: str, *command: str, **streams: bool) -> str:
    """Exec's URL; stdout and stderr unless told otherwise."""
    streams = {"stdout": True, "stderr": not streams.get("tty"), **streams}
    url: str = node.runtime.Exec(pb.ExecRequest(container_id=container, cmd=command, **streams)).url
    return url


def test_output_streams_and_exit_code_are_apart(node: Node, container: str) -> None:
    url = url_of(node, container, "sh", "-c", "echo out $MINE; echo err >&2; exit 7")
    with client.channels(url) as channels:
        status = channels.finish()
    assert channels.got[client.STDOUT] == b"out yes\n"
    assert channels.got[client.STDERR] == b"err\n"
    assert client.exit_code(status) == 7


def test_success_says_so(node: Node, container: str) -> None:
    with client.channels(url_of(node, container, "true")) as channels:
        assert channels.finish() == {"metadata": {}, "status": "Success"}


def test_the_end_of_stdin_is_the_commands_end_of_file(node: Node, container: str) -> None:
    with client.channels(url_of(node, container, "wc", "-c", stdin=True)) as channels:
        channels.send(client.STDIN, b"12345")
        channels.send(client.STDIN, b"678")
        channels.close(client.STDIN)
        assert client.exit_code(channels.finish()) == 0
    assert channels.got[client.STDOUT].strip() == b"8"


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "channel.k8s.io"])
def test_older_protocols(node: Node, container: str, protocol: str) -> None:
    url = url_of(node, container, "sh", "-c", "read line; echo got $line; exit 3", stdin=True)
    with client.channels(url, protocol) as channels:
        channels.send(client.STDIN, b"word\n")
        while channels.receive():
            pass
    assert channels.got[client.STDOUT] == b"got word\n"
    assert b"3" in channels.got[client.ERROR]


def test_channels_in_base64(node: Node, container: str) -> None:
    url = url_of(node, container, "sh", "-c", "read line; echo got $line; exit 3", stdin=True)
    got = dict.fromkeys("123", b"")
    with client.opened(url, "v4.base64.channel.k8s.io") as socket:
        socket.send("0" + base64.b64encode(b"word\n").decode())
        for message in socket:
            assert isinstance(message, str)
            got[message[0]] += base64.b64decode(message[1:])
    assert got["1"] == b"got word\n"
    assert client.exit_code(json.loads(got["3"])) == 3


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/etc/notexecutable", 126)])
@pytest.mark.parametrize("tty", [False, True])
def test_a_command_that_cannot_run_is_an_exit_code(
    node: Node, container: str, command: str, code: int, *, tty: bool
) -> None:
    with client.channels(url_of(node, container, command, tty=tty)) as channels:
        assert client.exit_code(channels.finish()) == code
    assert channels.got[client.STDOUT if tty else client.STDERR]


def test_a_terminal_has_a_size_and_a_line_discipline(node: Node, container: str) -> None:
    # The signal may interrupt `read`, which then fails.
    script = "trap 'stty size' WINCH; stty size; echo $TERM; while :; do read line && echo got $line && exit; done"
    with client.channels(url_of(node, container, "sh", "-c", script, tty=True, stdin=True)) as channels:
        channels.until(lambda: channels.got[client.STDOUT].endswith(b"xterm\r\n"))
        channels.send(client.RESIZE, json.dumps({"Width": 123, "Height": 45}).encode())
        channels.send(client.STDIN, b"hello\n")
        channels.until(lambda: b"got hello\r\n" in channels.got[client.STDOUT])
        assert b"45 123\r\n" in channels.got[client.STDOUT]
        assert client.exit_code(channels.finish()) == 0


def test_control_c_reaches_the_foreground_process(node: Node, container: str) -> None:
    with client.channels(url_of(node, container, "sleep", "5432", tty=True, stdin=True)) as channels:
        channels.receive()
        channels.send(client.STDIN, b"\x03")
        assert client.exit_code(channels.finish()) == 130


def test_a_background_child_that_holds_the_pipes_is_not_waited_for(node: Node, container: str) -> None:
    began = time.monotonic()
    with client.channels(url_of(node, container, "sh", "-c", "sleep 30 & echo done")) as channels:
        channels.finish()
    assert channels.got[client.STDOUT] == b"done\n"
    assert time.monotonic() - began < 25


@pytest.mark.parametrize("tty", [False, True])
def test_a_client_that_goes_away_leaves_no_command_behind(node: Node, pods: Pods, container: str, *, tty: bool) -> None:
    script = "sleep 4323 & sleep 4323"
    with client.channels(url_of(node, container, "sh", "-c", script, tty=tty, stdin=True)) as channels:
        while b"sleep 4323" not in pods.exec(container, "ps").stdout:
            time.sleep(0.02)
        channels.socket.socket.close()
    gone(pods, container, b"sleep 4323")


def test_a_client_that_goes_away_while_it_is_held_back_leaves_no_command_behind(
    node: Node, pods: Pods, container: str
) -> None:
    url = url_of(node, container, "sleep", "4324", stdin=True)
    message = b"\x82\xfe\x40\x00\0\0\0\0" + bytes(0x4000)
    with raw.upgraded(url, raw.WEBSOCKET) as sock:
        sock.settimeout(1)
        filled = 0
        try:
            while True:  # nobody reads this: pipe, server and socket fill up
                sock.sendall(message)
                filled += len(message)
        except TimeoutError:
            pass
    assert filled > 64 << 10
    gone(pods, container, b"sleep 4324")


def gone(pods: Pods, container: str, command: bytes) -> None:
    deadline = time.monotonic() + 15
    while command in pods.exec(container, "ps").stdout:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


def test_a_hundred_megabytes_there_and_back_in_flat_memory(node: Node, container: str) -> None:
    url, before = url_of(node, container, "cat", stdin=True), resident(node)
    sent, received, most = asyncio.run(mirrored(node, url))
    assert received == sent
    assert most - before < 16 << 20


async def mirrored(node: Node, url: str) -> tuple[str, str, int]:
    """Digests of what went and came, and the most memory that the server had meanwhile."""
    piece, pieces = os.urandom(1 << 20), 100
    sent, received, most = hashlib.sha256(), hashlib.sha256(), 0
    options: dict[str, Any] = {"max_size": None, "compression": None, "proxy": None, "max_queue": 16}
    async with connect(client.address(url), subprotocols=[Subprotocol(client.V5)], **options) as socket:

        async def feed() -> None:
            for _ in range(pieces):
                sent.update(piece)
                await socket.send(bytes((client.STDIN,)) + piece)
            await socket.send(bytes((client.CLOSE, client.STDIN)))

        feeder = asyncio.create_task(feed())
        async for message in socket:
            assert isinstance(message, bytes)
            if message[0] == client.STDOUT:
                received.update(message[1:])
            most = max(most, resident(node))
        await feeder
    return sent.hexdigest(), received.hexdigest(), most


def test_a_slow_reader_slows_the_command(node: Node, pods: Pods, container: str) -> None:
    before = resident(node)
    script = "head -c 200000000 /dev/zero; touch /tmp/all-written"
    with client.channels(url_of(node, container, "sh", "-c", script), max_queue=1) as channels:
        channels.receive()
        time.sleep(1)
        assert resident(node) - before < 16 << 20
        assert pods.exec(container, "test", "-e", "/tmp/all-written").exit_code == 1
        channels.socket.socket.close()
    gone(pods, container, b"head -c")


def resident(node: Node) -> int:
    """Bytes of memory that the server has."""
    assert node.process is not None
    with open(f"/proc/{node.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_container_that_is_killed_ends_its_execs(node: Node, pods: Pods, container: str) -> None:
    with client.channels(url_of(node, container, "sleep", "4325")) as channels:
        while b"sleep 4325" not in pods.exec(container, "ps").stdout:
            time.sleep(0.02)
        node.runtime.StopContainer(pb.StopContainerRequest(container_id=container, timeout=0))
        assert client.exit_code(channels.finish()) == 137


@pytest.mark.parametrize(
    ("streams", "word"),
    [({"stdout": True, "stderr": True, "tty": True}, "tty"), ({}, "stdin"), ({"tty": True}, "stdin")],
)
def test_streams_that_make_no_sense(node: Node, container: str, streams: dict[str, bool], word: str) -> None:
    code, words = refusal(node.runtime.Exec, pb.ExecRequest(container_id=container, cmd=["true"], **streams))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert word in words


def test_a_container_that_does_not_run_takes_no_command(node: Node, pods: Pods) -> None:
    container_id = pods.create(pods.run(), "true")
    code, _ = refusal(node.runtime.Exec, pb.ExecRequest(container_id=container_id, cmd=["true"], stdout=True))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_a_container_that_ends_before_its_url_is_used(node: Node, container: str) -> None:
    url = url_of(node, container, "true")
    node.runtime.StopContainer(pb.StopContainerRequest(container_id=container, timeout=0))
    with client.channels(url) as channels:
        status = channels.finish()
    assert status["reason"] == "InternalError"
    assert "not running" in status["message"]


def test_a_container_that_is_removed_before_its_url_is_used(node: Node, container: str) -> None:
    url = url_of(node, container, "true")
    node.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container))
    with client.channels(url) as channels:
        assert "no container has the id" in channels.finish()["message"]


def test_many_at_a_time(node: Node, container: str) -> None:
    def run(number: int) -> None:
        with client.channels(url_of(node, container, "echo", str(number))) as channels:
            channels.finish()
        results[number] = channels.got[client.STDOUT]

    results: dict[int, bytes] = {}
    threads = [threading.Thread(target=run, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n".encode() for number in range(32)}


@pytest.mark.parametrize("tty", [False, True])
def test_a_command_has_no_descriptors_of_the_hosts(node: Node, container: str, *, tty: bool) -> None:
    with client.channels(url_of(node, container, "ls", "-l", "/proc/self/fd", tty=tty)) as channels:
        assert client.exit_code(channels.finish()) == 0
    open_ones = [line.split() for line in channels.got[client.STDOUT].decode().splitlines() if "->" in line]
    assert [line[-3] for line in open_ones] == ["0", "1", "2"]  # the listing's own is gone when it is looked at
