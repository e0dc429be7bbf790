"""A command started in a running container: a child of this server, with no monitor between."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, OperationFailed
from ocishim.linux import cgroup, files, proc, process
from ocishim.linux.uncancelled import to_the_end
from ocishim.protocol import runtime_error
from ocishim.runtime import oci
from ocishim.spec import runtime as spec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node

_ABANDON_GRACE: Final = 5.0
"""Seconds."""
_SIGNALLED: Final = 128
"""The shell's exit code of a killed process, less its signal."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The command's ends of its streams; they stay the caller's. None is /dev/null."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A command that cannot be executed: the runtime's words, and the shell's exit code for it."""

    words: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where the runtime sends the command's terminal."""

    socket: str
    directory: int
    """A descriptor that the path goes through."""


def check(container: Container, command: Sequence[str]) -> None:
    """Raises InvalidArgument where that is no command, FailedPrecondition where the container does not run."""
    if not command or not command[0]:
        raise InvalidArgument("cmd: nothing to execute")
    if any("\0" in argument for argument in command):
        raise InvalidArgument("cmd: an argument holds a NUL character")
    if not container.status.is_running:
        raise FailedPrecondition(f"{container.title} is not running: nothing can be executed in it")


@asynccontextmanager
async def started(
    node: Node, container: Container, command: Sequence[str], ends: Ends, terminal: Terminal | None = None
) -> AsyncIterator[process.Process | Refusal]:
    """The command as a child of this server, or why it cannot be executed.

    `exec --detach` leaves at once, and the command, orphaned, is ours to wait for: no messenger process stays,
    and nothing copies its output on the way (runc would wait for every holder of the pipes). On the way out a
    command that still runs is killed with its session. Raises OperationFailed in the runtime's words where it is not
    the command's fault.
    """
    runtime = node.runtime_of(container)
    content = await _process_json(node, container, command, terminal=terminal is not None)
    with _pidfile(node, container) as pidfile, oci.process_file(content) as fd, oci.log_file() as log:
        options = ["--detach", "--pid-file", pidfile, "--process", f"/proc/self/fd/{fd}"]
        inherited = [fd, log]
        if terminal is not None:
            options += ["--console-socket", terminal.socket]
            inherited.append(terminal.directory)
        argv = runtime.argv("--log", f"/proc/self/fd/{log}", "exec", *options, container.id)
        with process.Process.adoption():
            messenger = process.spawn(
                argv, stdin=ends.stdin, stdout=ends.stdout, stderr=ends.stderr, pass_fds=inherited
            )
            try:
                succeeded = await _in_time(messenger, runtime.timeout)
            except BaseException:
                await to_the_end(_abandon(container, messenger, pidfile))
                raise
            child = process.Process(_read_pid(pidfile), tuple(argv)) if succeeded else None
        if child is None:
            yield _refusal(container, command[0], oci.logged(log))
            return
        try:
            yield child
        finally:
            if child.returncode is None:
                await to_the_end(_kill(container, child))


async def _in_time(messenger: process.Process, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await messenger.wait() == 0
    except TimeoutError as error:
        raise DeadlineExceeded(f"{messenger.argv[0]} exec did not start the command within {within:g} s") from error


async def _abandon(container: Container, messenger: process.Process, pidfile: str) -> None:
    """The caller is gone or the runtime hangs. A runtime killed half-way would leave a command that nobody knows,
    so it gets a moment to finish; what it has started is then killed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_ABANDON_GRACE):
            await messenger.wait()
    messenger.kill_group()
    await messenger.wait()
    with suppress(OperationFailed):
        await _kill(container, process.Process(_read_pid(pidfile), messenger.argv))


def _read_pid(pidfile: str) -> int:
    try:
        with open(pidfile, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError) as error:
        raise OperationFailed(f"the runtime started a command and left no pid of it: {error}") from error


async def _kill(container: Container, child: process.Process) -> None:
    candidates = await asyncio.to_thread(cgroup.processes, container.metadata.cgroup)
    await asyncio.to_thread(proc.kill_session, child.pid, candidates)
    await child.wait()


async def _process_json(node: Node, container: Container, command: Sequence[str], *, terminal: bool) -> bytes:
    template = container.exec_template
    if template is None:
        path = node.layout.container(container.metadata.id).spec
        template = await asyncio.to_thread(_read_process, path)
        container.exec_template = template
    changes: dict[str, object] = {"args": list(command), "terminal": terminal}
    if terminal and not any(variable.startswith("TERM=") for variable in template.env):
        changes["env"] = [*template.env, "TERM=xterm"]
    return template.model_copy(update=changes).model_dump_json(by_alias=True, exclude_none=True).encode()


def _read_process(path: str) -> spec.Process:
    with open(path, "rb") as file:
        return spec.RuntimeSpec.model_validate_json(file.read()).process


@contextmanager
def _pidfile(node: Node, container: Container) -> Iterator[str]:
    path = f"{node.layout.container(container.metadata.id).state}/exec-{secrets.token_hex(8)}.pid"
    try:
        yield path
    finally:
        files.unlink(path)


def exit_code(returncode: int) -> int:
    """As a shell tells it: 128 and the signal of a killed process."""
    return returncode if returncode >= 0 else _SIGNALLED - returncode


def _refusal(container: Container, program: str, said: bytes) -> Refusal:
    words = runtime_error.words(said.decode("utf-8", "replace"))
    code = runtime_error.command_exit_code(words)
    process = container.status.process
    if code is None and (process is None or not proc.is_alive(process.pid, process.start)):
        raise FailedPrecondition(f"{container.title} ended before {program!r} could be executed in it")
    if code is None:
        raise OperationFailed(f"{container.title}: {program!r} cannot be executed: {words}")
    return Refusal(words, code)
