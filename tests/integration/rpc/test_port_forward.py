"""Port-forward into a pod's network: over SPDY and over WebSocket channels."""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from cri_api.v1 import api_pb2 as pb

from ocishim.protocol.spdy_frames import Reset
from rpc import raw_client as raw
from rpc import spdy_client, websocket_client
from rpc.node import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods
    from rpc.spdy_client import SpdyClient


@pytest.fixture
def sandbox(pods: Pods) -> str:
    """A pod that echoes on port 7000, and answers HTTP on 7001 of IPv6 only."""
    made = pods.run()
    for port, command in ((7000, ("nc", "-ll", "-p", "7000", "-e", "cat")), (7001, ("httpd", "-fp", "[::1]:7001"))):
        listening(pods, pods.start(made, *command), port)
    return made


def listening(pods: Pods, container: str, port: int) -> None:
    script = f"until netstat -ltn | grep -q ':{port} '; do sleep 0.02; done"
    assert pods.exec(container, "sh", "-c", script, timeout=10).exit_code == 0


def url_of(node: Node, sandbox: str, *ports: int) -> str:
    url: str = node.runtime.PortForward(pb.PortForwardRequest(pod_sandbox_id=sandbox, port=ports)).url
    return url


@contextmanager
def forwarding(node: Node, sandbox: str, *, windows: bool = False) -> Iterator[SpdyClient]:
    with spdy_client.connected(url_of(node, sandbox), raw.FORWARD, windows=windows) as client:
        yield client


def opened(client: SpdyClient, port: int, request_id: str = "0") -> tuple[int, int]:
    """The error stream and the data stream of a connection."""
    headers = {"port": str(port), "requestid": request_id}
    error = client.open(streamtype="error", **headers)
    client.send(error, b"", fin=True)
    return error, client.open(streamtype="data", **headers)


@pytest.mark.parametrize("windows", [False, True])
def test_bytes_go_there_and_back(node: Node, sandbox: str, *, windows: bool) -> None:
    with forwarding(node, sandbox, windows=windows) as client:
        error, data = opened(client, 7000)
        client.send(data, b"hello")
        client.until(lambda: client.got[data] == b"hello")
        client.send(data, b" there", fin=True)
        client.until(lambda: {error, data} <= client.finished)
    assert client.got[data] == b"hello there"
    assert client.got[error] == b""


def test_where_nobody_listens_on_ipv4_it_is_ipv6(node: Node, sandbox: str) -> None:
    with forwarding(node, sandbox) as client:
        _, data = opened(client, 7001)
        client.send(data, b"GET / HTTP/1.0\r\n\r\n")
        client.until(lambda: data in client.finished)
    assert b"404 Not Found" in client.got[data]


def test_many_connections_at_a_time_over_one(node: Node, sandbox: str) -> None:
    content = {number: os.urandom(100_000) for number in range(20)}
    with forwarding(node, sandbox) as client:
        streams = {number: opened(client, 7000, str(number))[1] for number in content}
        for number, stream in streams.items():
            client.send(stream, content[number], fin=True)
        client.until(lambda: set(streams.values()) <= client.finished)
    assert {number: client.got[stream] for number, stream in streams.items()} == content


def test_a_port_where_nobody_listens_is_told_on_the_error_stream(node: Node, sandbox: str) -> None:
    with forwarding(node, sandbox) as client:
        error, data = opened(client, 7999)
        client.until(lambda: {error, data} <= client.finished)
        assert b"port 7999" in client.got[error]
        assert b"refused" in client.got[error]
        _, second = opened(client, 7000, "1")
        client.send(second, b"the connection lives on", fin=True)
        client.until(lambda: second in client.finished)
    assert client.got[second] == b"the connection lives on"


def test_the_pods_end_of_a_connection_ends_it(node: Node, pods: Pods) -> None:
    sandbox = pods.run()
    container = pods.start(sandbox, "sh", "-c", "nc -l -p 7002 -e echo bye; sleep 100")
    listening(pods, container, 7002)
    with forwarding(node, sandbox) as client:
        error, data = opened(client, 7002)
        client.until(lambda: {error, data} <= client.finished)
    assert client.got[data] == b"bye\n"


def test_a_connection_that_the_pod_resets_is_told_on_the_error_stream(node: Node, pods: Pods) -> None:
    sandbox = pods.run()
    # A socket that is closed with bytes unread is reset.
    script = "nc -l -p 7004 -e dd bs=1 count=1 of=/dev/null; sleep 100"
    listening(pods, pods.start(sandbox, "sh", "-c", script), 7004)
    with forwarding(node, sandbox) as client:
        error, data = opened(client, 7004)
        client.send(data, bytes(50_000))
        client.until(lambda: {error, data} <= client.finished)
    assert client.got[error].startswith(b"the connection inside the pod broke: ")


def test_a_client_that_resets_its_stream_ends_the_connection_in_the_pod(node: Node, pods: Pods) -> None:
    sandbox = pods.run()
    container = pods.start(sandbox, "sh", "-c", "nc -l -p 7003 > /tmp/got; echo over > /tmp/over; sleep 100")
    listening(pods, container, 7003)
    with forwarding(node, sandbox) as client:
        _, data = opened(client, 7003)
        client.send(data, b"some")
        client.machine.reset(data, Reset.CANCEL)
        client.flush()
        script = "until test -e /tmp/over; do sleep 0.02; done"
        assert pods.exec(container, "sh", "-c", script, timeout=10).exit_code == 0


def test_clients_without_request_ids_pair_by_stream(node: Node, sandbox: str) -> None:
    with forwarding(node, sandbox) as client:
        client.open(streamtype="error", port="7000")
        data = client.open(streamtype="data", port="7000")
        client.send(data, b"old", fin=True)
        client.until(lambda: data in client.finished)
    assert client.got[data] == b"old"


@pytest.mark.parametrize(
    "headers",
    [
        {"streamtype": "data", "port": "0"},
        {"streamtype": "data", "port": "65536"},
        {"streamtype": "data", "port": "٣"},
        {"streamtype": "data"},
        {"streamtype": "other", "port": "80"},
        {},
    ],
)
def test_a_stream_that_makes_no_sense_is_refused_alone(node: Node, sandbox: str, headers: dict[str, str]) -> None:
    if not all(value.isascii() for value in headers.values()):
        headers = {**headers, "port": "8o"}
    with forwarding(node, sandbox) as client:
        bad = client.open(**headers)
        assert bad in client.reset
        _, data = opened(client, 7000)
        client.send(data, b"fine", fin=True)
        client.until(lambda: data in client.finished)
    assert client.got[data] == b"fine"


def test_over_websocket_channels(node: Node, sandbox: str) -> None:
    url = url_of(node, sandbox, 7000, 7001, 7999)
    with websocket_client.channels(url, "v4.channel.k8s.io") as channels:
        channels.send(0, b"four")
        channels.send(2, b"GET / HTTP/1.0\r\n\r\n")
        channels.until(lambda: channels.got[0].endswith(b"four") and b"404 Not Found" in channels.got[2])
        channels.until(lambda: len(channels.got[5]) > 2)
    for channel, port in enumerate((7000, 7000, 7001, 7001, 7999, 7999)):
        assert channels.got[channel][:2] == struct.pack("<H", port)
    assert channels.got[0][2:] == b"four"
    assert b"refused" in channels.got[5]


def test_a_pod_in_the_hosts_network(node: Node, pods: Pods) -> None:
    host = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=host))
    sandbox = pods.run(pods.config(linux=linux))
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=(server,))
        thread.start()
        with forwarding(node, sandbox) as client:
            _, data = opened(client, server.getsockname()[1])
            client.until(lambda: client.got[data] == b"from the host")
        thread.join()


def greet(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        client.sendall(b"from the host")


def test_a_pod_that_stops_ends_its_connections(node: Node, sandbox: str) -> None:
    with forwarding(node, sandbox) as client:
        error, data = opened(client, 7000)
        client.send(data, b"hello")
        client.until(lambda: client.got[data] == b"hello")
        node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        client.until(lambda: {error, data} <= client.finished)
        late, _ = opened(client, 7000, "late")
        client.until(lambda: late in client.finished)
        assert b"not ready" in client.got[late]


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port(node: Node, sandbox: str, port: int) -> None:
    code, words = refusal(node.runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id=sandbox, port=[80, port]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert f"port[1]: port '{port}'" in words


def test_a_pod_that_has_stopped(node: Node, pods: Pods) -> None:
    sandbox = pods.run()
    node.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    code, _ = refusal(node.runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id=sandbox, port=[80]))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
