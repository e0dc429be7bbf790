"""`ocishim exec`: streams, exit codes, and a real terminal."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from sessions.foreign import ForeignNode
from sessions.terminal import Terminal, at_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpc.node import Node, Pods

    Line = Callable[..., list[str]]


@pytest.fixture
def container(pods: Pods, sandbox: str) -> str:
    """One that runs."""
    return pods.sleeper(sandbox)


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("stdin", subprocess.DEVNULL)
    if "input" in options:
        del options["stdin"]
    return subprocess.run(arguments, check=False, capture_output=True, timeout=60, **options)


def test_output_and_exit_code_are_passed_on(line: Line, container: str) -> None:
    done = run(line("exec", container, "--", "sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_the_commands_own_options_are_its_own(line: Line, container: str) -> None:
    assert run(line("exec", container, "echo", "-n", "--", "-i")).stdout == b"-- -i"
    assert run(line("exec", container, "--", "echo", "--", "--help")).stdout == b"-- --help\n"


def test_a_command_that_is_not_there_is_127(line: Line, container: str) -> None:
    done = run(line("exec", container, "--", "no-such-command"))
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"no-such-command" in done.stderr


def test_input_is_passed_on(line: Line, container: str) -> None:
    done = run(line("exec", "-i", container, "--", "head", "-c", "5"), input=b"hello world")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


def test_input_and_its_end_are_passed_on(line: Line, container: str, tmp_path: Any) -> None:
    data = os.urandom(5_000_000)
    done = run(line("exec", "-i", container, "--", "cat"), input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    (tmp_path / "file").write_bytes(b"from a file")
    with (tmp_path / "file").open("rb") as file:
        assert run(line("exec", "-i", container, "cat"), stdin=file).stdout == b"from a file"
    assert run(line("exec", "-i", container, "wc", "-c")).stdout.split() == [b"0"]


def test_output_that_nobody_reads_ends_the_session(line: Line, container: str) -> None:
    with subprocess.Popen(line("exec", container, "yes"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_session(line: Line, container: str, number: int, code: int) -> None:
    command = line("exec", container, "sh", "-c", "echo begun; sleep 1000")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stderr is not None
        assert process.stderr.read() == b""


def shell(terminal: Terminal) -> None:
    terminal.type("PS1='r''eady> '\r")
    terminal.wait_for("ready> ")


def test_a_shell_at_a_terminal(line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        terminal.type("echo $((6*7)); tty\r")
        terminal.wait_for("42\r\n")
        terminal.wait_for(r"/dev/(pts/\d+|console)\r\n")
        assert terminal.modes_now() != terminal.modes, "raw"
        terminal.type("exit 5\r")
        assert terminal.wait_for_end() == 5
        assert terminal.modes_now() == terminal.modes


def test_the_commands_terminal_has_this_ones_size(line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", container, "sh"), columns=91, rows=37) as terminal:
        shell(terminal)
        wait_for_size(terminal, "37 91")
        terminal.resize(120, 50)
        wait_for_size(terminal, "50 120")


def wait_for_size(terminal: Terminal, size: str) -> None:
    """The size goes its own way, so that the first answer may be older."""
    deadline = time.monotonic() + 20
    while True:
        terminal.type("stty size\r")
        found = terminal.wait_for(r"(\d+ \d+)\r\n")
        if found[1] == size:
            return
        assert time.monotonic() < deadline, found[1]


def test_control_c_is_the_commands(line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        terminal.type("trap 'echo inter''rupted' INT; echo wai''ting; sleep 1000\r")
        terminal.wait_for("waiting")
        # The first may come before there is a sleep: the shell's trap then waits for the sleep's end.
        terminal.type_until("\x03", "interrupted")
        terminal.type("exit 0\r")
        assert terminal.wait_for_end() == 0


def test_the_detach_keys_leave(line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", "--detach-keys", "ctrl-a,d", container, "sh")) as terminal:
        shell(terminal)
        terminal.type("\x01d")
        terminal.wait_for("left the session by the detach keys\r\n")
        assert terminal.wait_for_end() == 0
        assert terminal.modes_now() == terminal.modes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_the_terminal_as_it_was(line: Line, container: str, number: int, code: int) -> None:
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        terminal.process.send_signal(number)
        assert terminal.wait_for_end() == code
        assert terminal.modes_now() == terminal.modes


def test_raw_mode_comes_back_after_a_stop(line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        raw = terminal.modes_now()
        terminal.process.send_signal(signal.SIGSTOP)
        terminal.set_modes(terminal.modes)  # as a shell does
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for_modes(raw)
        terminal.type("exit 0\r")
        assert terminal.wait_for_end() == 0


def test_a_container_that_ends_leaves_the_terminal_as_it_was(node: Node, line: Line, pods: Pods, sandbox: str) -> None:
    container = pods.sleeper(sandbox)
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        subprocess.run(line("stop", "--time", "0", container), check=True, capture_output=True)
        assert terminal.wait_for_end() in (125, 137)
        assert terminal.modes_now() == terminal.modes


def test_a_server_that_is_killed_leaves_the_terminal_as_it_was(node: Node, line: Line, container: str) -> None:
    with at_terminal(line("exec", "-it", container, "sh")) as terminal:
        shell(terminal)
        node.restart(signal.SIGKILL)
        terminal.wait_for("without a word about the command's end|connection to the streaming server broke")
        assert terminal.wait_for_end() == 125
        assert terminal.modes_now() == terminal.modes


def test_a_terminal_for_the_command_without_one_here(node: Node, line: Line, container: str) -> None:
    if isinstance(node, ForeignNode):
        pytest.skip("containerd 1.6 closes a command's terminal together with the input that it was not to have")
    done = run(line("exec", "-t", container, "sh", "-c", "tty; stty -a >/dev/null && echo yes"))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == b"yes"


def test_a_container_that_does_not_run_is_said_so(line: Line, pods: Pods, sandbox: str) -> None:
    container = pods.start(sandbox, "true")
    pods.wait(container)
    done = run(line("exec", container, "true"))
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
