"""`ocishim attach`: the streams of a container's own process."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cri_api.v1 import api_pb2 as pb

from sessions.foreign import ForeignNode
from sessions.terminal import at_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpc.node import Node, Pods

    Line = Callable[..., list[str]]


def test_output_since_the_attach_is_shown_and_the_exit_code_is_the_containers(
    line: Line, pods: Pods, sandbox: str
) -> None:
    script = "trap 'echo bye; exit 9' TERM; while :; do echo tick; echo tock >&2; sleep 0.1; done"
    container = pods.start(sandbox, "sh", "-c", script)
    with subprocess.Popen(
        line("attach", container), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"tick\n"
        assert process.stderr.readline() == b"tock\n"
        subprocess.run(line("stop", container), check=True, capture_output=True)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 9
        assert out.splitlines()[-1] == b"bye"


def test_input_reaches_a_container_that_takes_it(line: Line, pods: Pods, sandbox: str) -> None:
    container = pods.start(sandbox, "sh", "-c", "read line; echo got $line; exit 4", stdin=True, stdin_once=True)
    with subprocess.Popen(
        line("attach", container), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(b"hello\n", timeout=30)
        assert (process.returncode, out, err) == (4, b"got hello\n", b"")


def test_a_terminal_is_joined_left_and_joined_again(line: Line, pods: Pods, sandbox: str) -> None:
    container = pods.start(sandbox, "sh", tty=True, stdin=True)
    with at_terminal(line("attach", container)) as terminal:
        terminal.type("echo $((6*7))\r")
        terminal.wait_for("42\r\n")
        terminal.type("\x10\x11")
        terminal.wait_for("left the session by the detach keys\r\n")
        assert terminal.wait_for_end() == 0
        assert terminal.modes_now() == terminal.modes
    assert pods.status(container).state == pb.CONTAINER_RUNNING
    with at_terminal(line("attach", container)) as terminal:
        terminal.type("exit 6\r")
        assert terminal.wait_for_end() == 6
        assert terminal.modes_now() == terminal.modes


def test_without_stdin_nothing_that_is_typed_reaches_it(node: Node, line: Line, pods: Pods, sandbox: str) -> None:
    if isinstance(node, ForeignNode):
        pytest.skip("containerd 1.6 ends an attach that has no input at once")
    script = "(while :; do echo tick; sleep 0.1; done) & read line; echo got $line; wait"
    container = pods.start(sandbox, "sh", "-c", script, stdin=True)
    done = subprocess.Popen(
        line("attach", "--no-stdin", container), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with done as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"tick\n"
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        subprocess.run(line("stop", "--time", "0", container), check=True, capture_output=True)
        out, _ = process.communicate(timeout=30)
        assert b"got" not in out
        assert process.returncode == 137


def test_a_container_that_does_not_run_is_said_so(line: Line, pods: Pods, sandbox: str) -> None:
    container = pods.start(sandbox, "true")
    pods.wait(container)
    done = subprocess.run(line("attach", container), check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
