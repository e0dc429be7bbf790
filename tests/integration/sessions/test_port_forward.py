"""`ocishim port-forward`: connections into a pod."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpc.node import Pods

    Line = Callable[..., list[str]]

SERVE = (
    "mkdir -p /srv && head -c 300000 /dev/urandom > /srv/noise;"
    "httpd -f -p 80 -h /srv & nc -ll -p 7 -e cat & nc -ll -p 13 -e echo hello & wait"
)
"""busybox's nc resets connections when many come at a time; its httpd does not."""


class Forwarded:
    """A port-forward at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ports: list[int] = []

    def connect(self, index: int = 0, host: str = "127.0.0.1") -> socket.socket:
        """A connection to one of its ports."""
        return socket.create_connection((host, self.ports[index]), timeout=20)

    def stderr_line(self) -> str:
        """What it says."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()


@contextmanager
def forwarding(arguments: list[str], ports: int = 1) -> Iterator[Forwarded]:
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        made = Forwarded(process)
        assert process.stdout is not None
        try:
            while len(made.ports) < ports:
                said = process.stdout.readline()
                found = re.fullmatch(r"127\.0\.0\.1:(\d+) -> \d+\n", said)
                assert found or said.startswith("[::1]:"), said + (process.stderr.read() if process.stderr else "")
                made.ports += [int(found[1])] if found else []
            yield made
        finally:
            process.kill()


@pytest.fixture
def pod(pods: Pods, sandbox: str) -> str:
    """One with a server that echoes, one that greets and one for files."""
    container = pods.start(sandbox, "sh", "-c", SERVE)
    deadline = time.monotonic() + 20
    while pods.exec(container, "sh", "-c", "nc 127.0.0.1 13 </dev/null").stdout != b"hello\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return sandbox


def test_several_ports_reach_the_pod(line: Line, pod: str) -> None:
    with forwarding(line("port-forward", pod, ":7", "0:13"), ports=2) as forwarded:
        with forwarded.connect(1) as connection:
            assert connection.makefile("rb").read() == b"hello\n"
        with forwarded.connect(0) as connection:
            connection.sendall(b"ping")
            assert connection.recv(4) == b"ping"
        forwarded.process.send_signal(signal.SIGINT)
        assert forwarded.process.wait(timeout=20) == 0
        assert forwarded.stderr_line() == ""


def test_bytes_go_both_ways_at_once(line: Line, pod: str) -> None:
    data = os.urandom(3_000_000)
    with forwarding(line("port-forward", pod, ":7")) as forwarded, forwarded.connect() as connection:
        sending = threading.Thread(target=connection.sendall, args=(data,))
        sending.start()
        assert connection.makefile("rb").read(len(data)) == data
        sending.join()


def test_many_connections_at_a_time_lose_nothing(line: Line, pod: str) -> None:
    def get(number: int) -> bytes:
        with forwarded.connect() as connection:
            connection.sendall(b"GET /noise HTTP/1.0\r\n\r\n")
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
            assert b"200 OK" in head
            return body

    with forwarding(line("port-forward", pod, ":80")) as forwarded, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(get, range(40)))
    assert {len(answer) for answer in answers} == {300_000}
    assert len(set(answers)) == 1


def test_a_port_where_nothing_listens_ends_that_connection_only(line: Line, pod: str) -> None:
    with forwarding(line("port-forward", pod, ":9", ":13"), ports=2) as forwarded:
        with forwarded.connect(0) as connection:
            assert connection.recv(1) == b""
        said = forwarded.stderr_line()
        assert said.startswith("ocishim: port 9 of pod test/")
        assert "refused" in said
        with forwarded.connect(1) as connection:
            assert connection.makefile("rb").read() == b"hello\n"


def test_a_local_port_in_use_is_said_so(line: Line, pod: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            line("port-forward", pod, f"{port}:7"), check=False, capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, f"ocishim: 127.0.0.1:{port}: Address already in use\n")


def test_a_pod_that_goes_away_ends_it(line: Line, pods: Pods, pod: str) -> None:
    with forwarding(line("port-forward", pod, ":7")) as forwarded:
        subprocess.run(line("rm", "--force", "--pod", pod), check=True, capture_output=True)
        with forwarded.connect() as connection:
            assert connection.recv(1) == b""
        assert forwarded.process.wait(timeout=20) == 1
        assert pod[:13] in forwarded.stderr_line()


def test_a_pod_that_is_stopped_is_refused(line: Line, pod: str) -> None:
    subprocess.run(line("stop", "--pod", pod), check=True, capture_output=True)
    done = subprocess.run(line("port-forward", pod, ":7"), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is not ready" in done.stderr
