"""`ocishim ps`, `pods`, `inspect`, `logs`, `stop`, `rm`, `version` as a user has them, against a server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from cri_api.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpc.node import Node, Pods

# The runtime has no part in this.
pytestmark = pytest.mark.parametrize("node", ["crun"], indirect=True, scope="session")

COUNTING = "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"


def line(node: Node, *arguments: str) -> list[str]:
    command, *rest = arguments
    # What a shell runs in the background ignores Ctrl-C, and so would what the tests run.
    own_signals = ["/usr/bin/env", "--default-signal=INT"]
    server = ["--runtime-endpoint", f"unix://{node.socket}"]
    return [*own_signals, sys.executable, "-m", "ocishim", command, *server, *rest]


def run(node: Node, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(line(node, *arguments), check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def as_json(node: Node, *arguments: str) -> Any:
    return json.loads(run(node, *arguments).stdout)


@contextmanager
def running(node: Node, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(line(node, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


def read_until(stream: IO[str] | None, wanted: str) -> list[str]:
    assert stream is not None
    lines = []
    for each in stream:
        lines.append(each)
        if wanted in each:
            return lines
    raise AssertionError(f"no {wanted!r} in {lines}")


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_containers_are_listed_by_state_pod_and_label(node: Node, pods: Pods) -> None:
    first, second = pods.run(pods.config("one")), pods.run(pods.config("two"))
    runs = pods.sleeper(first, name="runs", labels={"tier": "web"})
    ended = pods.start(first, "true", name="ended")
    pods.wait(ended)
    other = pods.sleeper(second, name="other")
    assert {each["id"] for each in as_json(node, "ps", "-o", "json")} >= {runs, other}
    assert [each["id"] for each in as_json(node, "ps", "-a", "--pod", "one", "-o", "json")] == [ended, runs]
    assert run(node, "ps", "--quiet", "--state", "exited", "--pod", "test/one").stdout == f"{ended}\n"
    assert run(node, "ps", "--quiet", "--label", "tier=web", "--label", "tier").stdout == f"{runs}\n"
    assert run(node, "ps", "--quiet", "--label", "tier=db").stdout == ""
    found = {each["name"]: each for each in as_json(node, "ps", "-a", "-o", "json")}["runs"]
    assert (found["pod"]["name"], found["pod"]["namespace"], found["state"]) == ("one", "test", "running")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", found["created_at"])


def test_the_table_has_a_line_for_each_container(node: Node, pods: Pods) -> None:
    sandbox = pods.run(pods.config("tabled"))
    container = pods.sleeper(sandbox, name="web")
    head, row = run(node, "ps", "--pod", "tabled").stdout.splitlines()
    assert head.split() == ["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "ATTEMPT", "AGE"]
    assert row.split()[:3] == [container[:13], "web", "test/tabled"]
    assert row.split()[4:6] == ["running", "0"]


def test_pods_are_listed_by_state_and_name(node: Node, pods: Pods) -> None:
    ready, stopped = pods.run(pods.config("ready")), pods.run(pods.config("stopped"))
    run(node, "stop", "stopped")
    assert run(node, "pods", "-q", "--state", "notready", "--name", "stopped").stdout == f"{stopped}\n"
    assert run(node, "pods", "-q", "--namespace", "test", "--name", "ready").stdout == f"{ready}\n"
    assert run(node, "pods", "-q", "--namespace", "elsewhere").stdout == ""
    states = {each["name"]: each["state"] for each in as_json(node, "pods", "--output", "json")}
    assert (states["ready"], states["stopped"]) == ("ready", "notready")
    assert run(node, "pods").stdout.splitlines()[0].split()[:3] == ["POD", "NAMESPACE", "NAME"]


def test_a_container_and_a_pod_are_inspected(node: Node, pods: Pods) -> None:
    sandbox = pods.run(pods.config("looked-at"))
    container = pods.start(sandbox, "sh", "-c", "exit 3", name="web")
    pods.wait(container)
    found, pod = as_json(node, "inspect", "looked-at/web", sandbox[:10])
    assert (found["kind"], pod["kind"]) == ("container", "pod")
    assert (found["status"]["exitCode"], found["status"]["state"]) == (3, "CONTAINER_EXITED")
    assert found["status"]["finishedAt"] > found["status"]["createdAt"] > "2020"
    assert found["info"]["runtimeSpec"]["process"]["args"] == ["sh", "-c", "exit 3"]
    assert pod["status"]["network"]["ip"]
    assert pod["info"]["config"]["metadata"]["name"] == "looked-at"


def test_names_that_mean_nothing_or_too_much_are_one_line(node: Node, pods: Pods) -> None:
    for name in ("left", "right"):
        pods.sleeper(pods.run(pods.config(name)), name="same")
    said = run(node, "logs", "same", code=2).stderr
    assert said.count("\n") == 1
    assert "'same' may be any of container test/left/same" in said
    assert run(node, "logs", "none", code=1).stderr.startswith("ocishim: no container is called 'none'")
    assert run(node, "stop", "left/same", "none", code=1).stdout == ""
    assert len(as_json(node, "ps", "--pod", "left", "-o", "json")) == 1, "nothing may be stopped before all are known"


def test_stop_and_rm_end_and_remove(node: Node, pods: Pods) -> None:
    sandbox = pods.run(pods.config("short-lived"))
    container = pods.sleeper(sandbox, name="web")
    assert "is running: stop it first" in run(node, "rm", "short-lived/web", code=1).stderr
    assert "is ready: stop it first" in run(node, "rm", "--pod", "short-lived", code=1).stderr
    assert run(node, "stop", "--time", "30", "short-lived/web").stdout == f"{container}\n"
    assert pods.status(container).exit_code == 0, "it has been given time"
    assert run(node, "rm", "short-lived/web").stdout == f"{container}\n"
    assert run(node, "rm", "--force", "short-lived").stdout == f"{sandbox}\n"
    assert run(node, "pods", "-q", "--name", "short-lived").stdout == ""


def test_a_container_that_does_not_end_is_killed_after_the_time(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(pods.config("stubborn")), "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    run(node, "stop", "--time", "0", container)
    assert pods.status(container).exit_code == 137


def test_a_log_is_printed_by_stream(node: Node, pods: Pods) -> None:
    script = "echo out; echo err >&2; printf 'no end'"
    container = pods.start(pods.run(), "sh", "-c", script, log_path="c.log")
    pods.wait(container)
    done = run(node, "logs", container)
    assert (done.stdout, done.stderr) == ("out\nno end", "err\n")
    assert run(node, "logs", "--stream", "stderr", container).stdout == ""
    assert run(node, "logs", "--tail", "1", container).stdout == "no end"
    assert run(node, "logs", "--tail", "0", container).stdout == ""
    assert run(node, "logs", "--since", "1h", container).stdout == "out\nno end"
    assert run(node, "logs", "--since", "2999-01-01T00:00:00Z", container).stdout == ""
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ out\n", run(node, "logs", "--timestamps", container).stdout)


def test_a_long_line_is_one_line_again(node: Node, pods: Pods) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo last"
    container = pods.start(pods.run(), "sh", "-c", script, log_path="c.log")
    pods.wait(container)
    assert run(node, "logs", container).stdout == "x" * 100000 + "\nlast\n"
    assert run(node, "logs", "--tail", "2", container).stdout == "x" * 100000 + "\nlast\n"
    assert run(node, "logs", "--tail", "1", container).stdout == "last\n"


def test_a_container_without_a_log_is_said_so(node: Node, pods: Pods) -> None:
    container = pods.sleeper(pods.run(), name="mute")
    assert "keeps no log" in run(node, "logs", container, code=1).stderr
    unstarted = pods.create(pods.run(), "true", log_path="c.log")
    assert "is not there" in run(node, "logs", unstarted, code=1).stderr


def test_a_log_is_followed_to_the_containers_end(node: Node, pods: Pods) -> None:
    container = pods.create(pods.run(), "sh", "-c", f"{COUNTING}", log_path="c.log")
    with running(node, "logs", "--follow", container) as process:
        node.runtime.StartContainer(pb.StartContainerRequest(container_id=container))
        read_until(process.stdout, "line 5\n")
        run(node, "stop", container)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0
    assert rest.splitlines()[-1] == Path(pods.status(container).log_path).read_text().splitlines()[-1].split(" ", 3)[3]


def test_following_goes_on_across_rotations_without_losing_a_line(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", COUNTING, log_path="c.log")
    path = Path(pods.status(container).log_path)
    with running(node, "logs", "-f", container) as process:
        lines = read_until(process.stdout, "line 3\n")
        for number in range(3):
            path.rename(f"{path}.{number}")
            node.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=container))
            eventually(lambda: path.exists() and path.stat().st_size > 0)
            (wanted,) = re.findall(r"line \d+\n", path.read_text())[:1]
            lines += read_until(process.stdout, wanted)
        run(node, "stop", container)
        rest, _ = process.communicate(timeout=20)
        lines += rest.splitlines(keepends=True)
    assert lines == [f"line {n}\n" for n in range(1, len(lines) + 1)]


def test_following_goes_on_while_the_server_restarts(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", COUNTING, log_path="c.log")
    with running(node, "logs", "-f", "--tail", "0", container) as process:
        read_until(process.stdout, "line")
        node.restart(signal.SIGKILL)
        text = Path(pods.status(container).log_path).read_text()
        last = int(re.findall(r"line (\d+)\n", text)[-1])
        read_until(process.stdout, f"line {last + 20}\n")
        run(node, "stop", container)
        process.communicate(timeout=20)
        assert process.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_following_without_a_word(node: Node, pods: Pods, number: int, code: int) -> None:
    container = pods.start(pods.run(), "sh", "-c", COUNTING, log_path="c.log")
    with running(node, "logs", "-f", container) as process:
        read_until(process.stdout, "line")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (code, "")


def test_a_reader_that_leaves_ends_following_without_a_word(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "sh", "-c", COUNTING, log_path="c.log")
    with running(node, "logs", "-f", container) as process:
        read_until(process.stdout, "line 2\n")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_pipes_flags_are_left_as_they_are(node: Node, pods: Pods) -> None:
    container = pods.start(pods.run(), "echo", "hello", log_path="c.log")
    pods.wait(container)
    read, write = os.pipe()
    subprocess.run(line(node, "logs", container), check=True, stdout=write, timeout=60)
    assert os.get_blocking(write)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert file.read() == b"hello\n"


def test_versions_of_both_sides(node: Node) -> None:
    found = as_json(node, "version", "--output", "json")
    assert (found["server"]["name"], found["server"]["api"]) == ("ocishim", "v1")
    assert run(node, "version").stdout.splitlines()[2].split() == [
        "server",
        "ocishim",
        found["client"]["version"],
        "v1",
    ]


def test_a_socket_that_is_no_cri_server_is_one_line(node: Node, tmp_path: Path) -> None:
    address = tmp_path / "echo.sock"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('{address}')\ns.listen()\n"
            "while True:\n c = s.accept()[0]\n c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n')\n c.close()",
        ]
    ) as server:
        try:
            eventually(address.exists)
            done = subprocess.run(
                [sys.executable, "-m", "ocishim", "ps", "-r", str(address)],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            server.kill()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"unix://{address}" in done.stderr
