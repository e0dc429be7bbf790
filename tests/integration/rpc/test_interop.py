"""Clients that are not ours: npm's spdy-transport, and Python's kubernetes over websocket-client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import websocket
from kubernetes.client import Configuration
from kubernetes.stream import ws_client

from rpc import raw_client as raw
from rpc import spdy_client
from rpc.test_exec_stream import url_of
from rpc.test_port_forward import listening, opened
from rpc.test_port_forward import url_of as forward_url_of
from rpc.websocket_client import address, exit_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpc.node import Node, Pods

SPDY_TRANSPORT = "spdy-transport@3.0.0"
SCRIPT = Path(__file__).with_name("spdy_transport_client.js")


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """spdy-transport, installed for this run; without npm a skip, and a failure in CI."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        why = f"{' and '.join(missing)} not found: `./dev test` installs Debian's nodejs and npm"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    directory = tmp_path_factory.mktemp("npm")
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(directory)]
    install.append(SPDY_TRANSPORT)
    try:
        subprocess.run(install, check=True, capture_output=True, timeout=60)
    except subprocess.SubprocessError as error:
        # Not a capability of the host: the registry may be down, and it says nothing of this server.
        pytest.skip(f"npm cannot install {SPDY_TRANSPORT}: {error}")
    return directory


def spdy_transport(
    modules: Path, url: str, protocol: str, *streams: dict[str, str], stdin: bytes = b""
) -> dict[str, dict[str, Any]]:
    """What came on each stream."""
    command: list[str | Path] = ["node", SCRIPT, modules, url, protocol, *map(json.dumps, streams)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture
def container(pods: Pods) -> str:
    return pods.sleeper(pods.run())


def test_spdy_transport_runs_a_command(node: Node, container: str, modules: Path) -> None:
    url = url_of(node, container, "sh", "-c", "echo out; echo err >&2; exit 9")
    streams = [{"streamType": name} for name in ("error", "stdout", "stderr")]
    found = spdy_transport(modules, url, "v4.channel.k8s.io", *streams)
    assert found["stdout"]["text"] == "out\n"
    assert found["stderr"]["text"] == "err\n"
    assert exit_code(json.loads(found["error"]["text"])) == 9


def test_a_hundred_megabytes_there_and_back_by_spdy_transport(node: Node, container: str, modules: Path) -> None:
    data = os.urandom(1 << 20) * 100
    streams = [{"streamType": name} for name in ("error", "stdin", "stdout", "stderr")]
    url = url_of(node, container, "cat", stdin=True)
    found = spdy_transport(modules, url, "v4.channel.k8s.io", *streams, stdin=data)
    assert found["stdout"]["bytes"] == len(data)
    assert found["stdout"]["digest"] == hashlib.sha256(data).hexdigest()
    assert json.loads(found["error"]["text"])["status"] == "Success"


def test_spdy_transport_forwards_a_port(node: Node, pods: Pods, modules: Path) -> None:
    sandbox = pods.run()
    listening(pods, pods.start(sandbox, "nc", "-ll", "-p", "7000", "-e", "cat"), 7000)
    data = os.urandom(1 << 20) * 8
    streams = [{"streamType": kind, "port": "7000", "requestID": "5"} for kind in ("error", "data")]
    url = forward_url_of(node, sandbox)
    found = spdy_transport(modules, url, "portforward.k8s.io", *streams, stdin=data)
    assert found["data"]["bytes"] == len(data)
    assert found["data"]["digest"] == hashlib.sha256(data).hexdigest()
    assert found["error"]["text"] == ""


@contextmanager
def kubernetes(url: str, **options: bool) -> Iterator[Any]:
    """Python's kubernetes as it is when its `stream` has called the API server; it has no types."""
    call: Any = ws_client.websocket_call
    client = call(Configuration(), "GET", url, _preload_content=False, **options)
    try:
        yield client
    finally:
        client.sock.shutdown()


def test_pythons_kubernetes_runs_a_command(node: Node, container: str) -> None:
    url = url_of(node, container, "sh", "-c", "read line; echo got $line; echo err >&2; exit 6", stdin=True)
    with kubernetes(url, capture_all=True) as client:
        client.write_stdin("word\n")
        client.run_forever(timeout=raw.PATIENCE)
        assert client.read_stdout() == "got word\n"
        assert client.read_stderr() == "err\n"
        assert client.returncode == 6


def test_pythons_kubernetes_ends_stdin(node: Node, container: str) -> None:
    url = url_of(node, container, "wc", "-c", stdin=True)
    with kubernetes(url, binary=True) as client:
        client.write_stdin(b"12345")
        client.close_channel(ws_client.STDIN_CHANNEL)
        client.run_forever(timeout=raw.PATIENCE)
        assert client.read_stdout().strip() == b"5"


def test_spdy_in_a_websocket(node: Node, pods: Pods) -> None:
    sandbox = pods.run()
    listening(pods, pods.start(sandbox, "nc", "-ll", "-p", "7000", "-e", "cat"), 7000)
    url = address(forward_url_of(node, sandbox))
    tunnel = websocket.create_connection(url, subprotocols=["SPDY/3.1+portforward.k8s.io"], timeout=raw.PATIENCE)
    assert tunnel.getsubprotocol() == "SPDY/3.1+portforward.k8s.io".lower()
    client = spdy_client.SpdyClient(Tunnelled(tunnel), windows=True)  # type: ignore[arg-type] # enough of a socket
    _, data = opened(client, 7000)
    client.send(data, b"x" * 300_000, fin=True)
    client.until(lambda: data in client.finished)
    assert client.got[data] == b"x" * 300_000
    tunnel.close()


class Tunnelled:
    """A WebSocket as a socket."""

    def __init__(self, tunnel: websocket.WebSocket) -> None:
        self.tunnel = tunnel

    def sendall(self, data: bytes) -> None:
        if data:
            self.tunnel.send_binary(data)

    def recv(self, _size: int) -> bytes:
        data = self.tunnel.recv()
        assert isinstance(data, bytes)
        return data
