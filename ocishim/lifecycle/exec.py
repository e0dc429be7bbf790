"""ExecSync: a command in a running container, by the runtime directly, with pipes and no monitor."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ocishim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, OperationFailed
from ocishim.linux import cgroup, files, proc, process
from ocishim.protocol import runtime_error
from ocishim.runtime import oci
from ocishim.spec import runtime as spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ocishim.lifecycle.container import Container
    from ocishim.lifecycle.node import Node


_MESSENGER_GRACE: Final = 1.0
"""Seconds."""


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
    runtime = node.runtime_of(container)
    budget = process.Budget(node.settings.containers.exec_sync_output)
    with _pidfile(node, container) as pidfile, oci.process_file(content) as fd:
        argv = runtime.argv("exec", "--pid-file", pidfile, "--process", f"/proc/self/fd/{fd}", container.id)
        async with process.piped(argv, pass_fds=(fd,), output=budget) as (child, out, err):
            try:
                async with asyncio.timeout(timeout or None):
                    code = await child.wait()
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"{container.title}: {command[0]!r} did not end within {timeout:g} s and was killed"
                ) from error
            finally:
                if child.returncode is None:
                    await _kill_command(container, pidfile, child)
            result = ExecResult(out.finish(), err.finish(), code)
        ran = os.access(pidfile, os.F_OK)  # in memory
        return result if ran else _refused(container, command[0], result)


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


async def _kill_command(container: Container, pidfile: str, messenger: process.Process) -> None:
    """The command is known by the pid file; the runtime's exec is its messenger, reaps it and ends by itself."""
    try:
        with open(pidfile, encoding="ascii") as file:  # noqa: ASYNC230 - a few bytes in memory
            pid = int(file.read())
    except (OSError, ValueError):
        return  # not started yet, and the messenger is killed on the way out
    candidates = await asyncio.to_thread(cgroup.processes, container.metadata.cgroup)
    if pid in candidates:
        await asyncio.to_thread(proc.kill_session, pid, candidates)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MESSENGER_GRACE):
                await messenger.wait()


def _refused(container: Container, program: str, result: ExecResult) -> ExecResult:
    """Without a pid file the command never ran: what is on stderr are the runtime's words."""
    words = runtime_error.words(result.stderr.decode("utf-8", "replace"))
    code = runtime_error.command_exit_code(words)
    if code is None or result.exit_code <= 0:
        raise OperationFailed(f"{container.title}: {program!r} cannot be executed: {words}")
    return ExecResult(b"", f"{words}\n".encode(), code)
