"""The streaming server's settings and its end, each test on a server of its own."""

from __future__ import annotations

import signal
import ssl
import time
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb

from rpc import raw_client as raw
from rpc import spdy_client
from rpc import websocket_client as client
from rpc.node import Node, Pods
from rpc.test_exec_stream import gone, url_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def own(node: Node, layout: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A server of this test's own, with its settings."""
    made = Node(node.runtime_name)
    try:
        made.prepare()
        made.configure("[streaming]\n" + getattr(request, "param", ""))
        made.start()
        made.load(layout)
        yield made
    finally:
        made.clean()


@pytest.fixture
def pods(own: Node) -> Iterator[Pods]:
    made = Pods(own)
    try:
        yield made
    finally:
        made.remove_all()


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run())


def test_a_server_that_stops_tells_its_clients_why_and_leaves_no_command(own: Node, pods: Pods, container: str) -> None:
    command = spdy_client.command(url_of(own, container, "sleep", "4342"), "stdout", "stderr")
    with client.channels(url_of(own, container, "sleep", "4342")) as channels, command as spdy:
        while pods.exec(container, "ps").stdout.count(b"sleep 4342") < 2:
            time.sleep(0.02)
        own.restart()
        assert "stopping" in channels.finish()["message"]
        assert channels.socket.close_code == 1001
        assert "stopping" in spdy.status()["message"]
    gone(pods, container, b"sleep 4342")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_container_can_be_attached_to_after_a_restart(own: Node, pods: Pods, number: int) -> None:
    script = "while read line; do echo got $line; done"
    container = pods.start(pods.run(), "sh", "-c", script, stdin=True)
    own.restart(number)
    url = own.runtime.Attach(pb.AttachRequest(container_id=container, stdin=True, stdout=True)).url
    with client.channels(url) as channels:
        channels.send(client.STDIN, b"one\n")
        channels.until(lambda: channels.got[client.STDOUT] == b"got one\n")


@pytest.mark.parametrize("own", ["tls = true\nidle_timeout = 1.0\n"], indirect=True)
def test_tls_with_a_certificate_of_its_own_making(own: Node, pods: Pods, container: str) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    url = url_of(own, container, "echo", "secret")
    assert url.startswith("https://127.0.0.1:")
    with client.channels(url, ssl=trusting) as channels:
        channels.finish()
    assert channels.got[client.STDOUT] == b"secret\n"
    with client.channels(url_of(own, container, "sleep", "4343"), ssl=trusting, ping_interval=None) as channels:
        assert "nothing was sent" in channels.finish()["message"]
    gone(pods, container, b"sleep 4343")


@pytest.mark.parametrize("own", ["creation_timeout = 1.0\nsessions = 2\n"], indirect=True)
def test_limits_of_sessions_and_of_time(own: Node, container: str) -> None:
    with raw.upgraded(url_of(own, container, "true"), raw.SPDY) as first:
        with raw.upgraded(url_of(own, container, "true"), raw.SPDY):
            url = url_of(own, container, "true")
            with raw.connected(url) as third:
                third.sendall(raw.request(url, raw.SPDY))
                assert raw.status(third) == 503
        raw.rest(first)  # it opens no streams, and is dropped
    with client.channels(url_of(own, container, "echo", "room")) as channels:
        channels.finish()
    assert channels.got[client.STDOUT] == b"room\n"
