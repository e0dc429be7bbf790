"""ExecSync: a command in a running container, by the runtime directly, with pipes and no monitor."""

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
class ExecResult:
    """What the command left."""

    stdout: bytes
    stderr: bytes
    exit_code: int


async def exec_sync(node: Node, container: Container, command: Sequence[str], timeout: float) -> ExecResult:  # noqa: ASYNC109 - the RPC's own, with a meaning of its own
    """Run a command and wait for it, `timeout` seconds at most; 0 means for ever.

    A command that is not there or cannot be executed is an exit code, 127 or 126. Past the timeout, or when the
    caller goes away, the command is killed with its session and the container lives on. Raises DeadlineExceeded,
    FailedPrecondition where the container does not run, OperationFailed in the runtime's words.
    """
    if not command or not command[0]:
        raise InvalidArgument("cmd: nothing to execute")
    if any("\0" in argument for argument in command):
        raise InvalidArgument("cmd: an argument holds a NUL character")
    if not container.status.is_running:
        raise FailedPrecondition(f"{container.title} is not running: nothing can be executed in it")
    content = await _process_json(node, container, command)
    async with _command(node, container, content) as (child, out, err):
        if child is None:
            return _refused(container, command[0], err.finish())
        try:
            async with asyncio.timeout(timeout or None):
                code = await child.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{container.title}: {command[0]!r} did not end within {timeout:g} s and was killed"
            ) from error
        # A child of the command may hold the pipes for ever: what was written until now is the output.
        return ExecResult(out.finish(), err.finish(), code if code >= 0 else _SIGNALLED - code)


@asynccontextmanager
async def _command(
    node: Node, container: Container, content: bytes
) -> AsyncIterator[tuple[process.Process | None, process.Collector, process.Collector]]:
    """The command as a child of this server, or None where the runtime would not start it.

    `exec --detach` leaves at once, and the command, orphaned, is ours to wait for: no messenger process stays,
    and nothing copies its output on the way (runc would wait for every holder of the pipes). On the way out a
    command that still runs is killed with its session.
    """
    runtime = node.runtime_of(container)
    budget = process.Budget(node.settings.containers.exec_sync_output)
    with _pidfile(node, container) as pidfile, oci.process_file(content) as fd:
        argv = runtime.argv("exec", "--detach", "--pid-file", pidfile, "--process", f"/proc/self/fd/{fd}", container.id)
        async with process.piped(argv, pass_fds=(fd,), output=budget) as (messenger, out, err):
            with process.Process.adoption():
                try:
                    started = await _started(messenger, runtime.timeout)
                except BaseException:
                    await to_the_end(_abandon(container, messenger, pidfile))
                    raise
                child = process.Process(_read_pid(pidfile), tuple(argv)) if started else None
            try:
                yield child, out, err
            finally:
                if child is not None and child.returncode is None:
                    await to_the_end(_kill(container, child))


async def _started(messenger: process.Process, within: float) -> bool:
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


async def _process_json(node: Node, container: Container, command: Sequence[str]) -> bytes:
    template = container.exec_template
    if template is None:
        path = node.layout.container(container.metadata.id).spec
        template = await asyncio.to_thread(_read_process, path)
        container.exec_template = template
    wanted = template.model_copy(update={"args": list(command), "terminal": False})
    return wanted.model_dump_json(by_alias=True, exclude_none=True).encode()


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


def _refused(container: Container, program: str, stderr: bytes) -> ExecResult:
    """The command never ran: what is on stderr are the runtime's words."""
    words = runtime_error.words(stderr.decode("utf-8", "replace"))
    code = runtime_error.command_exit_code(words)
    if code is None:
        raise OperationFailed(f"{container.title}: {program!r} cannot be executed: {words}")
    return ExecResult(b"", f"{words}\n".encode(), code)
