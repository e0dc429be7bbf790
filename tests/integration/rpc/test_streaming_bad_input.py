"""What the streaming server makes of clients that are wrong, late, hostile, or too many."""

from __future__ import annotations

import os
import socket
import threading
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ocishim.protocol.spdy_frames import Data, Reset, RstStream, SynStream, WindowUpdate, serialize
from ocishim.protocol.spdy_headers import DICTIONARY
from rpc import raw_client as raw
from rpc import spdy_client
from rpc import websocket_client as client
from rpc.test_exec_stream import gone, resident, url_of
from rpc.websocket_client import exit_code

if TYPE_CHECKING:
    from rpc.node import Node, Pods

MASKED = b"\x80\0\0\0\0"


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run())


def still_serves(node: Node, container: str) -> None:
    with client.channels(url_of(node, container, "echo", "fine")) as channels:
        channels.finish()
    assert channels.got[client.STDOUT] == b"fine\n"


def answer(url: str, wire: bytes) -> int:
    """The status of the answer to some bytes."""
    with raw.connected(url) as sock:
        sock.sendall(wire)
        return raw.status(sock)


def test_a_url_serves_one_request(node: Node, container: str) -> None:
    url = url_of(node, container, "true")
    with client.channels(url) as channels:
        channels.finish()
    assert answer(url, raw.request(url, raw.WEBSOCKET)) == 404


def test_a_token_of_another_kind_of_request(node: Node, container: str) -> None:
    url = url_of(node, container, "true").replace("/exec/", "/attach/")
    assert answer(url, raw.request(url, raw.SPDY)) == 404


@pytest.mark.parametrize("path", ["/", "/exec/", "/exec/guess", "/attach/../exec/x", "/%00", "*", "/" + "x" * 9000])
def test_a_path_that_leads_nowhere(node: Node, container: str, path: str) -> None:
    url = url_of(node, container, "true")
    assert answer(url, f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()) == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Upgrade": "h2c"}, 400),
        ({"Upgrade": "SPDY/2"}, 400),
        (raw.SPDY | {"X-Stream-Protocol-Version": "v9.channel.k8s.io"}, 403),
        (raw.WEBSOCKET | {"Sec-WebSocket-Protocol": "chat"}, 400),
        (raw.WEBSOCKET | {"Sec-WebSocket-Version": "1"}, 400),
        ({"Upgrade": "websocket"}, 400),
    ],
)
def test_an_upgrade_that_is_not_served(node: Node, container: str, headers: dict[str, str], status: int) -> None:
    url = url_of(node, container, "true")
    assert answer(url, raw.request(url, headers)) == status


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PUT / HTTP/1.1\r\nHost: here\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ],
    ids=["nonsense", "tls", "method", "long", "hosts"],
)
def test_what_is_no_request(node: Node, container: str, wire: bytes, status: int) -> None:
    url = url_of(node, container, "true")
    with raw.connected(url) as sock:
        try:
            sock.sendall(wire)
        except (ConnectionResetError, BrokenPipeError):
            pass
        if wire.startswith(b"\x16"):
            sock.shutdown(socket.SHUT_WR)  # it looks like the beginning of a line: nothing to answer until more comes
            assert raw.rest(sock) == b"" or status
            return
        assert raw.status(sock) == status
    still_serves(node, container)


def bomb() -> bytes:
    squeeze = zlib.compressobj(9, zdict=DICTIONARY)
    return squeeze.compress(bytes(20 << 20)) + squeeze.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    "wire",
    [
        os.urandom(64) + bytes((0x80, 9)) * 2000,
        b"\x80\x02" + bytes(6),
        b"\x80\x03\x00\x01\xff\xff\xff\xff",
        serialize(SynStream(1, bomb())),
        serialize(SynStream(1, b"not zlib")),
        serialize(SynStream(2, b"")),
        serialize(Data(0, b"x")),
        serialize(WindowUpdate(0, 0x7FFFFFFF)),
    ],
    ids=["garbage", "version", "length", "bomb", "no zlib", "even", "stream 0", "window"],
)
def test_what_is_no_spdy_ends_that_client_only(node: Node, container: str, wire: bytes) -> None:
    before = resident(node)
    with client.channels(url_of(node, container, "cat", stdin=True)) as other:
        with raw.upgraded(url_of(node, container, "true"), raw.SPDY) as sock:
            try:
                sock.sendall(wire)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            raw.rest(sock)
        other.send(client.STDIN, b"still here")
        other.close(client.STDIN)
        assert exit_code(other.finish()) == 0
    assert other.got[client.STDOUT] == b"still here"
    assert resident(node) - before < 16 << 20


def test_a_stream_id_that_is_used_again(node: Node, container: str) -> None:
    with spdy_client.connected(url_of(node, container, "true"), raw.SPDY) as spdy:
        stream = spdy.open(streamtype="error")
        spdy.sock.sendall(serialize(SynStream(stream, spdy.machine._compressor.block({}))))
        spdy.until(lambda: stream in spdy.reset)
    assert spdy.reset == {stream: Reset.PROTOCOL_ERROR}


def test_streams_that_are_opened_and_reset_without_end(node: Node, pods: Pods, container: str) -> None:
    before = resident(node)
    url = url_of(node, container, "sleep", "4341")
    with spdy_client.command(url, "stdout", "stderr") as command:
        spdy = command.client
        for _ in range(5000):
            stream = spdy.machine.open({})
            spdy.machine._send(RstStream(stream, Reset.CANCEL))
            if stream % 100 == 1:
                spdy.flush()
        spdy.flush()
        time.sleep(0.3)
        assert resident(node) - before < 16 << 20
    gone(pods, container, b"sleep 4341")


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\x82\x81\0\0\0\0\x09", 1008),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4) + bytes(33 << 20), 1009),
        (b"\x82\x02\0a", 1002),
        (b"\xf2\x82\0\0\0\0\0a", 1002),
        (b"\x82\x80\0\0\0\0", 1008),
    ],
    ids=["channel", "large", "unmasked", "reserved", "empty"],
)
def test_what_is_no_message_ends_that_client_only(node: Node, container: str, wire: bytes, code: int) -> None:
    before = resident(node)
    with raw.upgraded(url_of(node, container, "cat", stdin=True), raw.WEBSOCKET) as sock:
        feeder = threading.Thread(target=feed, args=(sock, wire))
        feeder.start()
        closed = raw.rest(sock)
        feeder.join()
    assert code.to_bytes(2, "big") in closed
    assert resident(node) - before < 40 << 20
    still_serves(node, container)


def feed(sock: socket.socket, wire: bytes) -> None:
    try:
        sock.sendall(wire)
    except OSError:
        pass


def test_a_thousand_connections_that_say_nothing_keep_nobody_out(node: Node, container: str) -> None:
    with ExitStack() as stack:
        url = url_of(node, container, "true")
        for _ in range(1000):
            stack.enter_context(raw.connected(url))
        still_serves(node, container)
    still_serves(node, container)


def test_half_a_request_is_not_waited_for_for_ever(node: Node, container: str) -> None:
    with raw.connected(url_of(node, container, "true")) as sock:
        sock.sendall(b"GET /exec")
        assert raw.status(sock) == 408


def test_the_server_has_no_more_descriptors_than_before(node: Node, container: str) -> None:
    assert node.process is not None
    directory = Path(f"/proc/{node.process.pid}/fd")
    still_serves(node, container)
    before = len(list(directory.iterdir()))
    for _ in range(20):
        still_serves(node, container)
    time.sleep(0.2)
    assert len(list(directory.iterdir())) <= before + 2
